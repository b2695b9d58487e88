#!/usr/bin/env node
"use strict";

const { main } = require("../lib/main.js");

main(process.argv.slice(2)).catch((error) => {
  // what is expected has a message for people; anything else is a defect, and its stack says where
  process.stderr.write(`gpu-worker: ${error.expected ? error.message : error.stack}\n`);
  process.exitCode = 1;
});
