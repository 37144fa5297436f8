#!/usr/bin/env node
import React, { useState as state } from "react";
import * as path from "node:path";
const { join, resolve: res } = require("path");
/**
 * Adds.
 * @param a first
 */
export function add(a, b = 1) { const local = a; function nested() {} return local + b; }
const twice = (x) => add(x, x), LIMIT = 3;
export const frozen = Object.freeze({ key: 1 });
class Point extends Base {
  static origin = new Point(0);
  #secret = 1;
  handler = () => {};
  constructor(x) { super(); this.x = x; }
  // Its length.
  get norm() { return Math.abs(this.x); }
  static async *walk() {}
  #hidden() {}
  "quoted name"() {}
}
module.exports.later = function () {};
exports.soon = async () => 1;
Point.prototype.move = function (dx) { this.x += dx; };
Point.create = (x) => new Point(x);
const table = { run() {}, walk: () => 1, jump: function () {}, plain: 2 };
let count = 0;
var Legacy = function Named() { this.go = function () {}; };
function* generate() { yield 1; }
describe("suite", () => { const hidden = 1; it("works", function () { let deep = `${hidden}`; }); });
export default class Main { run() { return <Point x={count} />; } }
export { twice as double, count };
const Klass = class { method() {} };
if (count) { const inner = 1; }
