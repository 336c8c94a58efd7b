/** Failed logins of one account, as kept between them. */
export interface FailedLogins {
  readonly count: number;
  readonly lastMs: number;
}

/** Mistypings that cost nothing. */
export const freeFailures = 3;
/** From here on the account is locked for `lockMs` after each failure. */
export const lockFailures = 10;
export const lockMs = 15 * 60_000;
/** After this long without a failure the count starts again. */
export const forgetMs = lockMs;

/** How long the account takes no login: 0 means now. Doubles from one second with each failure past the free ones. */
export function waitMsOf(failed: FailedLogins | undefined, nowMs: number): number {
  if (!failed || failed.count < freeFailures) return 0;
  const pause = failed.count >= lockFailures ? lockMs : 1_000 * 2 ** (failed.count - freeFailures);
  return Math.max(0, failed.lastMs + pause - nowMs);
}

/** The count with one more failure. */
export function afterFailure(failed: FailedLogins | undefined, nowMs: number): FailedLogins {
  const stale = !failed || nowMs - failed.lastMs > forgetMs;
  return { count: stale ? 1 : failed.count + 1, lastMs: nowMs };
}
