/** What is known of a certificate on disk. */
export interface HeldCertificate {
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
  if (o.nowMs >= held.startMs + (held.endMs - held.startMs) / 2) return "half its life is over";
  return held.issuer === o.signingSubject ? undefined : "another authority signs";
}
