"use strict";
// Everything to the program: words, terminal, signals, exit code.

const { spawn } = require("node:child_process");
const os = require("node:os");
const { OWN } = require("./environment.js");

const PASSED = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"];
// A terminal sends these to the whole foreground group, so the program has them already: once more would be a second
// Ctrl-C, which means "stop now".
const OF_TERMINAL = new Set(["SIGINT", "SIGQUIT"]);

function variablesOf(environment, variables) {
  const own = Object.fromEntries(Object.entries(variables).filter(([name]) => !OWN.includes(name)));
  return { ...own, NPX_GPU_WORKER: environment.base };
}

function handOver(environment, words, variables) {
  const child = spawn(environment.program, words, { stdio: "inherit", env: variablesOf(environment, variables) });
  const terminal = process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY;
  for (const signal of PASSED) {
    if (!(signal in os.constants.signals)) continue; // Windows
    process.on(signal, () => {
      if (!(terminal && OF_TERMINAL.has(signal))) child.kill(signal);
    });
  }
  child.on("error", (error) => {
    process.stderr.write(`gpu-worker: ${environment.program} can't be started: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    for (const one of PASSED) process.removeAllListeners(one);
    process.kill(process.pid, signal); // ended as the program did: a shell sees 128 + its number
    setTimeout(() => process.exit(128 + (os.constants.signals[signal] ?? 0)), 1000); // a signal that ends nobody
  });
}

module.exports = { handOver, variablesOf };
