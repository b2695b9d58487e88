"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { test } = require("node:test");
const { baseOf, environmentOf, wheelIn } = require("../lib/environment.js");
const { variablesOf } = require("../lib/hand_over.js");
const manifest = require("../package.json");

test("each system's own data folder", () => {
  assert.strictEqual(baseOf({}, "linux", "/home/me"), "/home/me/.local/share/gpu-worker/npx");
  assert.strictEqual(baseOf({ XDG_DATA_HOME: "/data" }, "linux", "/home/me"), "/data/gpu-worker/npx");
  assert.match(baseOf({}, "darwin", "/Users/me"), /Application Support/);
  assert.match(baseOf({ LOCALAPPDATA: "C:\\Local" }, "win32", "C:\\me"), /^C:\\Local/);
});

test("a folder that is named holds ours, and is not ours itself", () => {
  assert.strictEqual(baseOf({ GPU_WORKER_HOME: "/home/me" }, "linux", "/home/me"), "/home/me/npx");
});

test("another thing to install is another environment", () => {
  const folders = [{}, { GPU_WORKER_SPEC: "a.whl" }, { GPU_WORKER_SPEC: "b.whl" }, { GPU_WORKER_PYTHON: "/opt/py" }];
  assert.strictEqual(new Set(folders.map((one) => environmentOf(one, "linux").folder)).size, folders.length);
  assert.ok(environmentOf({}, "linux").folder.includes(manifest.version));
  assert.match(environmentOf({}, "win32").program, /Scripts.gpu-worker\.exe$/);
});

test("a wheel that was brought along is one more thing to install", () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "wheel-"));
  try {
    assert.strictEqual(wheelIn(path.join(folder, "none")), null);
    assert.strictEqual(wheelIn(folder), null);
    const wheel = path.join(folder, "idlegrid-9-py3-none-any.whl");
    const folders = ["one build", "another"].map((content) => {
      fs.writeFileSync(wheel, content);
      return environmentOf({}, "linux", "/home/me", wheelIn(folder)).folder;
    });
    assert.notStrictEqual(folders[0], folders[1]);
    const named = environmentOf({ GPU_WORKER_SPEC: "x" }, "linux", "/home/me", wheelIn(folder)).folder;
    assert.strictEqual(named, environmentOf({ GPU_WORKER_SPEC: "x" }, "linux", "/home/me", null).folder);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});

test("the program gets the user's variables, and not the wrapper's", () => {
  const environment = environmentOf({}, "linux");
  const got = variablesOf(environment, { GPU_WORKER_NAME: "mine", GPU_WORKER_SPEC: "x", GPU_WORKER_HOME: "/h", PATH: "/bin" });
  assert.deepStrictEqual(got, { GPU_WORKER_NAME: "mine", PATH: "/bin", NPX_GPU_WORKER: environment.base });
});

test("the package brings nothing along and runs nothing when it is installed", () => {
  for (const name of ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"]) {
    assert.strictEqual(manifest[name], undefined);
  }
  assert.deepStrictEqual(Object.keys(manifest.scripts), ["test"]);
  assert.strictEqual(manifest.license, "MIT");
});
