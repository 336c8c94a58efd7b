/** What one member said its content came to at the index of a check. */
export interface Testimony {
  readonly member: number;
  /** False for a learner: it is compared, and its word does not count. */
  readonly votes: boolean;
  /** Undefined until it has reported. */
  readonly sha256: string | undefined;
}

export type Verdict =
  /** More than half of the voters have this content; whoever reported another one differs from it. */
  | { readonly kind: "agreed"; readonly sha256: string; readonly differ: readonly number[] }
  /** All voters have reported, and no content is that of more than half of them: nobody can say which is right. */
  | { readonly kind: "undecided" }
  /** Reports that are missing may still decide. */
  | { readonly kind: "open" };

/**
 * Judges by the majority of the voters, never by the leader: a leader's disk is no better than another's. Reports that
 * come later never turn an agreed verdict, they only add to those who differ.
 */
export function verdictOf(testimonies: readonly Testimony[]): Verdict {
  const voters = testimonies.filter(({ votes }) => votes);
  const counts = new Map<string, number>();
  for (const { sha256 } of voters) if (sha256 !== undefined) counts.set(sha256, (counts.get(sha256) ?? 0) + 1);
  for (const [sha256, count] of counts) {
    if (count * 2 <= voters.length) continue;
    const others = testimonies.filter((each) => each.sha256 !== undefined && each.sha256 !== sha256);
    return { kind: "agreed", sha256, differ: others.map(({ member }) => member) };
  }
  return { kind: voters.every(({ sha256 }) => sha256 !== undefined) ? "undecided" : "open" };
}

/** "1 and 3 have 0f3a9c…, 2 has 77be01…, 4 has not reported", for people. */
export function describeTestimonies(testimonies: readonly Testimony[]): string {
  const holders = new Map<string | undefined, number[]>();
  for (const { sha256, member } of testimonies) holders.set(sha256, [...holders.get(sha256) ?? [], member]);
  const said = [...holders].sort(([a], [b]) => Number(a === undefined) - Number(b === undefined));
  return said.map(([sha256, members]) => {
    const verb = members.length === 1 ? "has" : "have";
    return `${members.join(" and ")} ${verb} ${sha256 === undefined ? "not reported" : sha256.slice(0, 16)}`;
  }).join(", ");
}
