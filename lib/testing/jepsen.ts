import type { RegisterAction, RegisterOperation } from "./history.ts";

/** A log that contradicts itself; the message names the line. */
export class JepsenLogError extends Error {
  override readonly name = "JepsenLogError";
}

/** A call that has not returned. */
interface Call {
  readonly kind: RegisterAction["kind"];
  /** As written: an integer, or `[old new]`. */
  readonly argument: string;
  readonly at: number;
}

const LINE = /^INFO\s+jepsen\.util\s+-\s+(\d+)\s+:(invoke|ok|fail|info)\s+:(read|write|cas)\s+(\S.*?)\s*$/;
const VALUE = /^(?:nil|-?\d+)$/;
const PAIR = /^\[\s*(nil|-?\d+)\s+(nil|-?\d+)\s*\]$/;

/**
 * The operations of a Jepsen log about one register that starts as nil. An operation without a return, or with an
 * `:info` one, has an unknown outcome; lines of any other form are no events. Order in time is the order of lines.
 */
export function parseJepsenLog(text: string): RegisterOperation[] {
  const operations: RegisterOperation[] = [];
  const calls = new Map<string, Call>();
  /** Values become small numbers; nil is what a register starts as. */
  const numbers = new Map<string, number>([["nil", 0]]);
  const numberOf = (value: string): number => {
    const key = value === "nil" ? value : String(BigInt(value));
    if (!numbers.has(key)) numbers.set(key, numbers.size);
    return numbers.get(key)!;
  };
  const actionOf = ({ kind, argument }: Call, result: string, ok: boolean): RegisterAction => {
    if (kind === "read") return { kind, value: numberOf(result) };
    if (kind === "write") return { kind, value: numberOf(argument) };
    const [, expected, value] = PAIR.exec(argument)!;
    return { kind, expected: numberOf(expected!), value: numberOf(value!), swapped: ok };
  };
  const add = (call: Call, action: RegisterAction, returnedAt: number): void => {
    operations.push({ key: "register", action, invokedAt: call.at, returnedAt });
  };
  /** Open to the end: it may have happened at any time, or not at all. A read without an answer says nothing. */
  const abandon = (call: Call | undefined): void => {
    if (call && call.kind !== "read") add(call, actionOf(call, "nil", true), Infinity);
  };
  text.split("\n").forEach((line, at) => {
    const found = LINE.exec(line);
    if (!found) return;
    const process = found[1]!, type = found[2]!, kind = found[3] as RegisterAction["kind"], argument = found[4]!;
    const fits = (kind === "cas" ? PAIR : VALUE).test(argument);
    if (type === "invoke") {
      if (!fits) return;
      abandon(calls.get(process));
      calls.set(process, { kind, argument, at });
      return;
    }
    const unanswered = type === "fail" && kind === "read" && argument === ":timed-out";
    const answered = fits && (type === "ok" || (type === "fail" && kind === "cas"));
    if (type !== "info" && !unanswered && !answered) return;
    const call = calls.get(process);
    // Of an operation that nobody called, an unknown outcome says nothing.
    if (!call && !answered) return;
    const same = call?.kind === kind && (!answered || kind === "read" || sameArgument(call.argument, argument));
    if (!call || !same) {
      const wanted = call ? `a return of :${call.kind} ${call.argument}` : "an :invoke before it";
      throw new JepsenLogError(`Cannot read line ${at + 1}, :${type} :${kind} of process ${process}: wanted ${wanted}`);
    }
    calls.delete(process);
    if (answered) add(call, actionOf(call, argument, type === "ok"), at);
    else abandon(call);
  });
  for (const call of calls.values()) abandon(call);
  if (operations.length === 0 && calls.size === 0 && !text.split("\n").some((line) => LINE.test(line))) {
    throw new JepsenLogError(
      "Cannot find any event of a register: wanted lines such as INFO jepsen.util - 0 :invoke :read nil",
    );
  }
  return operations;
}

function sameArgument(a: string, b: string): boolean {
  const plain = (text: string) => text.replace(/[[\]]/g, " ").trim().split(/\s+/).join(" ");
  return plain(a) === plain(b);
}
