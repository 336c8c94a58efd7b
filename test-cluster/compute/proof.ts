/** What a proof tells while it runs: each line a fact that was seen, with its figure. */
export interface Proof {
  /** Adds a fact. */
  seen(fact: string): void;
  /** Fails unless it holds. */
  check(holds: boolean, fact: string): void;
}

export type ProofBody = (proof: Proof) => Promise<void>;

export function printingProof(print: (line: string) => void): Proof {
  const start = performance.now();
  const seen = (fact: string) => print(`  ${((performance.now() - start) / 1000).toFixed(1).padStart(6)} s  ${fact}`);
  return {
    seen,
    check(holds, fact) {
      if (!holds) throw new Error(`It does not hold that ${fact}`);
      seen(fact);
    },
  };
}
