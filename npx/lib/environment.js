"use strict";
// Where the environment lies, whether it is whole, and having it made.

const { spawn } = require("node:child_process");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { Expected } = require("./expected.js");
const { version } = require("../package.json");

const OWN = ["GPU_WORKER_PYTHON", "GPU_WORKER_HOME", "GPU_WORKER_SPEC", "GPU_WORKER_PIP_ARGS", "GPU_WORKER_SYSTEM_SITE"];
const WHEEL = path.join(__dirname, "..", "wheel");
const MAKER = path.join(__dirname, "make_environment.py");

// The folder that is ours alone, in the user's data folder or the one that the user names.
function baseOf(variables, platform = process.platform, home = os.homedir()) {
  if (variables.GPU_WORKER_HOME) return path.join(path.resolve(variables.GPU_WORKER_HOME), "npx");
  const data = {
    win32: variables.LOCALAPPDATA || path.join(home, "AppData", "Local"),
    darwin: path.join(home, "Library", "Application Support"),
  }[platform] || variables.XDG_DATA_HOME || path.join(home, ".local", "share");
  return path.join(data, "gpu-worker", "npx");
}

// The wheel of idlegrid that a release brings along; null in a package without one, which takes it from an index.
function wheelIn(folder = WHEEL) {
  const names = fs.existsSync(folder) ? fs.readdirSync(folder).filter((one) => one.endsWith(".whl")) : [];
  return names.length ? path.join(folder, names[0]) : null;
}

// Another version, or another thing to install, is another environment: one that an agent runs in is never changed.
function environmentOf(variables, platform = process.platform, home = os.homedir(), wheel = wheelIn()) {
  const base = baseOf(variables, platform, home);
  const spec = variables.GPU_WORKER_SPEC || "";
  const carried = spec || wheel === null ? "" : createHash("sha256").update(fs.readFileSync(wheel)).digest("hex");
  const told = [spec, variables.GPU_WORKER_PYTHON || "", variables.GPU_WORKER_SYSTEM_SITE || "", carried];
  const mark = createHash("sha256").update(JSON.stringify(told)).digest("hex").slice(0, 8);
  const folder = path.join(base, `${version}-${mark}`);
  const programs = path.join(folder, platform === "win32" ? "Scripts" : "bin");
  const suffix = platform === "win32" ? ".exe" : "";
  return {
    base, folder, spec, version, wheel,
    python: path.join(programs, `python${suffix}`),
    program: path.join(programs, `gpu-worker${suffix}`),
    ready: path.join(folder, "ready.json"),
  };
}

// Whether it was made to the end, and what it was built on is still there.
function isReady(environment) {
  return [environment.ready, environment.python, environment.program].every((one) => fs.existsSync(one));
}

// Made by Python, under a lock that the system frees however its holder ends.
function makeEnvironment(environment, [python, ...words], variables) {
  process.stderr.write(`gpu-worker: making ${environment.folder}; the first time takes minutes\n`);
  const child = spawn(python, [...words, MAKER, JSON.stringify(environment)], {
    stdio: ["ignore", 2, 2], // standard output is the command's own
    env: variables,
    windowsHide: true,
  });
  return new Promise((made, failed) => {
    child.on("error", (error) => failed(new Expected(`${python} can't be started: ${error.message}`)));
    child.on("exit", (code, signal) => {
      if (signal) return failed(new Expected(`stopped (${signal}); the next start begins anew`));
      if (code !== 0 || !isReady(environment)) {
        return failed(new Expected(`the environment could not be made (exit code ${code}); what pip said stands above`));
      }
      return made();
    });
  });
}

module.exports = { OWN, baseOf, environmentOf, isReady, makeEnvironment, wheelIn };
