/** Bounds of a server. Each protects the process from its callers. */
export interface RpcLimits {
  /** Bytes of one request message, compressed and not. */
  readonly messageBytesMax: number;
  /** Unary calls under way; further ones are refused with resource_exhausted. */
  readonly inFlightMax: number;
  /** Streams open at once. */
  readonly streamsMax: number;
  /** Unary calls under way of one user or service account, so that none takes the server from the others. */
  readonly callerCallsMax: number;
  /** Streams open of one user or service account. */
  readonly callerStreamsMax: number;
  /** Longest deadline a caller gets; longer ones are cut to it. */
  readonly timeoutMsMax: number;
  /** Deadline of a unary call that names none. Streams without one run until someone leaves. */
  readonly timeoutMsDefault: number;
  /** The event loop being this late means the process is overloaded: unary calls are shed until it recovers. */
  readonly loopLagMsMax: number;
  /** How long dispose waits for calls under way before it aborts them. */
  readonly drainMs: number;
  /** Browser origins allowed to call; loopback origins are always allowed on loopback listeners. */
  readonly origins: readonly string[];
}

export const defaultLimits: RpcLimits = {
  messageBytesMax: 4 * 1024 * 1024,
  inFlightMax: 4_096,
  streamsMax: 2_048,
  callerCallsMax: 512,
  callerStreamsMax: 256,
  // WaitOperation waits a minute; nothing unary needs ten.
  timeoutMsMax: 600_000,
  timeoutMsDefault: 65_000,
  loopLagMsMax: 2_000,
  drainMs: 5_000,
  origins: [],
};

/** Answers smaller than this are not worth compressing. */
export const compressBytesMin = 1024;
/** Characters of an idempotency key or a request id. */
export const keyCharsMax = 128;

const printable = /^[\x21-\x7e]+$/;

/** True for 1 to 128 printable ASCII characters. */
export function isKey(text: string): boolean {
  return text.length <= keyCharsMax && printable.test(text);
}
