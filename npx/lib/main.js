"use strict";
// From the words of the command line to idlegrid's own `gpu-worker`, in an environment that is made when it is missing.

const { environmentOf, isReady, makeEnvironment } = require("./environment.js");
const { findPython } = require("./python.js");
const { handOver } = require("./hand_over.js");

async function main(words, variables = process.env) {
  const environment = environmentOf(variables);
  if (!isReady(environment)) {
    await makeEnvironment(environment, findPython(variables), variables);
  }
  handOver(environment, words, variables);
}

module.exports = { main };
