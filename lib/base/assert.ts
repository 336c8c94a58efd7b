/** Raised when something that must be true is not: a bug, never bad input. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Stops the caller when `condition` is false; `message` says what must hold. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** The value, which must not be null or undefined. */
export function present<T>(value: T | null | undefined, message: string): T {
  if (value === null || value === undefined) throw new AssertionError(message);
  return value;
}

/** Marks the branch of an exhaustive switch that cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`Unreachable case ${String(value)}`);
}
