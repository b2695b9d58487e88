"use strict";

const assert = require("node:assert");
const { test } = require("node:test");
const { candidates, findPython, probe } = require("../lib/python.js");

const fit = { major: 3, minor: 12, whole: true, wide: true };

test("Windows is asked by its launcher first", () => {
  assert.deepStrictEqual(candidates({}, "win32")[0], ["py", "-3.13"]);
  assert.ok(candidates({}, "win32").some(([program]) => program === "python"));
  assert.ok(candidates({}, "linux").every(([program]) => program.startsWith("python")));
});

test("the named Python is the only one", () => {
  assert.deepStrictEqual(candidates({ GPU_WORKER_PYTHON: "/opt/py" }, "linux"), [["/opt/py"]]);
});

test("the first that is fit is taken", () => {
  const there = { "python3.11": { ...fit, minor: 11 }, python3: fit };
  assert.deepStrictEqual(findPython({}, "linux", ([name]) => there[name] ?? null), ["python3.11"]);
});

test("without one it says what was found, and what to do", () => {
  const look = ([name]) => (name === "python3" ? { ...fit, minor: 9 } : null);
  assert.throws(() => findPython({}, "linux", look), /python3 is Python 3.9, too old.*\n.*apt install/);
  assert.throws(() => findPython({}, "win32", () => null), /was not found\.\n.*winget/);
  assert.throws(() => findPython({}, "darwin", () => null), /brew/);
  assert.throws(() => findPython({ GPU_WORKER_PYTHON: "/no" }, "linux", () => null), /names \/no, which is no Python/);
});

test("a Python that can make no environments, or has 32 bits, is told of", () => {
  assert.throws(() => findPython({}, "linux", () => ({ ...fit, whole: false })), /apt install python3-venv/);
  assert.throws(() => findPython({}, "linux", () => ({ ...fit, wide: false })), /32 bits/);
});

test("what is there is looked at, and what is not there is none", () => {
  assert.strictEqual(probe(["no-such-python-anywhere"]), null);
  assert.strictEqual(probe([process.execPath, "-e", "process.exit(0)", "--"]), null);
  const found = probe(findPython());
  assert.ok(found.major === 3 && found.minor >= 11 && found.whole && found.wide);
});
