/** Where in its life a key is. */
export type Phase = "published" | "signing" | "verifying";

/** The phase of a key that is trusted: known but not yet used, used, or only trusted for what it signed. */
export function phaseOf(key: { readonly signFromMs?: number }, nowMs: number, signs: boolean): Phase {
  if (signs) return "signing";
  return (key.signFromMs ?? 0) > nowMs ? "published" : "verifying";
}
