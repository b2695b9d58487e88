"use strict";

// What can go wrong on a machine that is not ours. The message says what happened and what to do.
class Expected extends Error {
  expected = true;
}

module.exports = { Expected };
