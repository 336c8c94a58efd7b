import { seededRng } from "@ultracloud/base";
import { bootstrapBatch, configurationOf, emptyConfiguration } from "./configuration.ts";
import { type CoreOptions, coreOptions } from "./options.ts";
import { RaftCore } from "./raft.ts";
import type { Ready } from "./ready.ts";
import type { Entry, LogView, Message, SnapshotMeta } from "./types.ts";

/** A durable log as plain as can be: writes land when the test says so. */
export class MemoryView implements LogView {
  base: SnapshotMeta = { index: 0, term: 0, configuration: emptyConfiguration };
  held: Entry[] = [];

  firstIndex(): number {
    return this.base.index + 1;
  }
  lastIndex(): number {
    return this.base.index + this.held.length;
  }
  term(index: number): number | undefined {
    return index === this.base.index ? this.base.term : this.held[index - this.base.index - 1]?.term;
  }
  entries(low: number, high: number): readonly Entry[] {
    return this.held.slice(low - this.base.index - 1, high - this.base.index - 1);
  }
  append(entries: readonly Entry[]): void {
    for (const entry of entries) {
      this.held.length = entry.index - this.base.index - 1;
      this.held.push(entry);
    }
  }
  cut(index: number): void {
    const term = this.term(index)!;
    this.held = this.held.slice(index - this.base.index);
    this.base = { index, term, configuration: this.base.configuration };
  }
}

/** A core of `id` among `voters` that has just been founded. */
export function founded(id: number, voters: readonly number[], options: Partial<CoreOptions> = {}): {
  core: RaftCore;
  view: MemoryView;
} {
  const view = new MemoryView();
  const { hardState, entries } = bootstrapBatch(voters);
  view.append(entries);
  const core = new RaftCore(
    coreOptions({ id, electionTicks: 10, heartbeatTicks: 2, ...options }),
    { view, hardState, base: view.base, appliedIndex: 0 },
    { rng: seededRng(id) },
  );
  return { core, view };
}

/** Does everything that is due at once; answers all messages that went out and all entries that were applied. */
export function settle(core: RaftCore, view: MemoryView): { messages: Message[]; applied: Entry[]; readies: Ready[] } {
  const messages: Message[] = [], applied: Entry[] = [], readies: Ready[] = [];
  for (let ready = core.ready(); ready; ready = core.ready()) {
    readies.push(ready);
    messages.push(...ready.messages);
    if (ready.install) {
      view.base = ready.install.meta;
      view.held = [];
      core.advanceAppend(ready.install.seq);
      core.advanceApply(ready.install.meta.index);
    }
    if (ready.append) {
      view.append(ready.append.entries);
      core.advanceAppend(ready.append.seq);
    }
    if (ready.committed.length > 0) {
      applied.push(...ready.committed);
      core.advanceApply(ready.committed.at(-1)!.index);
    }
  }
  return { messages, applied, readies };
}

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
export const threeVoters = configurationOf([1, 2, 3]);

/** Makes `core` the leader of three by the votes of replica 2. */
export function elect(
  core: RaftCore,
  view: MemoryView,
  answer: (kind: "pre_vote" | "vote", m: Message) => Message,
): void {
  core.campaign();
  for (let round = 0; round < 2; round++) {
    const ask = settle(core, view).messages.find((m) => m.to === 2 && (m.kind === "pre_vote" || m.kind === "vote"))!;
    core.step(answer(ask.kind as "pre_vote" | "vote", ask));
  }
}
