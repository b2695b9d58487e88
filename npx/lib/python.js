"use strict";
// Which Python the environment is built on: 3.11 or newer, 64 bits, with venv and ensurepip.

const { spawnSync } = require("node:child_process");
const { Expected } = require("./expected.js");

const LEAST = [3, 11];
const PROBE = `import sys
try:
    import ensurepip, venv
    whole = True
except ImportError:
    whole = False
print(*sys.version_info[:2], int(whole), int(sys.maxsize > 2**32))`;

// the versions that most wheels are built for come first
function candidates(variables = process.env, platform = process.platform) {
  if (variables.GPU_WORKER_PYTHON) return [[variables.GPU_WORKER_PYTHON]];
  const numbers = ["3.13", "3.12", "3.11", "3.14"];
  if (platform === "win32") return [...numbers.map((one) => ["py", `-${one}`]), ["py", "-3"], ["python"], ["python3"]];
  return [...numbers.map((one) => [`python${one}`]), ["python3"], ["python"]];
}

// {major, minor, whole, wide} of a Python; null when there is none under that name
function probe([program, ...words]) {
  const found = spawnSync(program, [...words, "-c", PROBE], { encoding: "utf8", timeout: 30000, windowsHide: true });
  if (found.error || found.status !== 0) return null;
  const told = /^(\d+) (\d+) ([01]) ([01])\s*$/.exec(found.stdout);
  return told && { major: Number(told[1]), minor: Number(told[2]), whole: told[3] === "1", wide: told[4] === "1" };
}

function findPython(variables = process.env, platform = process.platform, look = probe) {
  const seen = [];
  for (const command of candidates(variables, platform)) {
    const found = look(command);
    if (found === null) continue;
    const why = unfit(found, platform);
    if (why === null) return command;
    seen.push(`${command.join(" ")} ${why}`);
  }
  throw new Expected(advice(seen, variables, platform));
}

function unfit({ major, minor, whole, wide }, platform) {
  if (major < LEAST[0] || (major === LEAST[0] && minor < LEAST[1])) return `is Python ${major}.${minor}, too old`;
  if (!wide) return "has 32 bits, 64 are needed";
  if (!whole) return `can make no environments${platform === "linux" ? " (apt install python3-venv)" : ""}`;
  return null;
}

function advice(seen, variables, platform) {
  const named = variables.GPU_WORKER_PYTHON;
  const head = named
    ? `GPU_WORKER_PYTHON names ${named}, which is no Python ${LEAST.join(".")} or newer`
    : `Python ${LEAST.join(".")} or newer is needed and was not found`;
  const found = seen.length ? `: ${[...new Set(seen)].join("; ")}` : "";
  const how = {
    win32: "Install it from https://www.python.org/downloads/ or by: winget install Python.Python.3.12",
    darwin: "Install it from https://www.python.org/downloads/ or by: brew install python@3.12",
  };
  const get = how[platform] ?? "Install it, for example by: apt install python3 python3-venv";
  return `${head}${found}.\n${get}\nOr name one: GPU_WORKER_PYTHON=/path/to/python3`;
}

module.exports = { candidates, findPython, probe, unfit };
