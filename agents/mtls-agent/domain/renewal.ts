/** What is known of a certificate on disk. */
export interface HeldCertificate {
  /** When it came: authorities date certificates back, for hosts whose clocks are behind. */
  readonly obtainedMs: number;
  readonly startMs: number;
  readonly endMs: number;
  readonly issuer: string;
}

/**
 * Why a certificate must be renewed now; undefined while it need not: none is there, half its life is over, or another
 * authority signs.
 */
export function renewalDue(
  held: HeldCertificate | undefined,
  o: { readonly nowMs: number; readonly signingSubject: string },
): string | undefined {
  if (held === undefined) return "there is none";
  if (o.nowMs < held.startMs) return "it is not valid yet";
  // A file from the future tells nothing.
  const fromMs = held.obtainedMs <= o.nowMs ? Math.max(held.startMs, held.obtainedMs) : held.startMs;
  if (o.nowMs >= fromMs + (held.endMs - fromMs) / 2) return "half its life is over";
  return held.issuer === o.signingSubject ? undefined : "another authority signs";
}
