/** A secret that prints as `<redacted>` everywhere: logs, JSON, template strings, inspection. */
export class Redacted<T> {
  readonly #value: T;
  constructor(value: T) {
    this.#value = value;
  }
  /** The secret itself; call it only where it is used. */
  expose(): T {
    return this.#value;
  }
  toString(): string {
    return "<redacted>";
  }
  toJSON(): string {
    return "<redacted>";
  }
  [Symbol.for("Deno.customInspect")](): string {
    return "<redacted>";
  }
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return "<redacted>";
  }
}
