import type { Job } from "./job";
import fs = require("fs");
/** Retry policy. */
export interface Retry extends Base<string> { delay: number; readonly name?: string; next(attempt: number): void; new (x: number): Retry; [key: string]: any }
type Name = string | { inner: number };
enum Level { Low, High = 2 }
const enum Fast { A }
declare const VERSION: string;
export default abstract class Queue<T> extends Base implements Retry {
  private size = 1;
  static readonly MAX: number = 3;
  declare ghost: string;
  constructor(private url: string, public readonly retries = 1) { super(); }
  abstract go(): void;
  abstract kind: string;
  @decorated() async run(this: Queue<T>): Promise<void> { const local: Level = Level.Low; }
  get length(): number { return this.size; }
  overload(a: string): void;
  overload(a: any) {}
}
declare function outside(a: number): string;
export function overloaded(a: string): void;
export function overloaded(a: any): void { }
namespace Inner.Deep { export const x = 1; export function f() {} }
declare module "external" { export function imported(): void; }
declare global { interface Window { app: Job } }
export const handler: Handler = async (event) => { const hidden = event; };
const typed = <T,>(x: T): T => x;
let mutable: number | undefined, other = 2;
export type { Name };
abstract class Shape { protected abstract area(): number }
