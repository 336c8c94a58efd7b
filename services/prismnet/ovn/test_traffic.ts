import type { Netns } from "./test_netns.ts";

/** One packet in this many milliseconds: what is missing times this is how long traffic stood. */
export const everyMs = 20;

export interface PingStream extends AsyncDisposable {
  /** Number of the last packet that was answered; 0: none yet. */
  last(): number;
  /** Packets missing between two that were answered, from number `after` on. */
  missing(after: number): number;
}

/** Pings from a namespace until disposed. */
export function pingStream(from: Netns, to: string): PingStream {
  const child = from.spawn("ping", "-n", "-i", String(everyMs / 1000), to);
  let text = "";
  const reading = (async () => {
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) text += part;
  })();
  const received = () => [...text.matchAll(/icmp_seq=(\d+) /g)].map((match) => Number(match[1]));
  return {
    last: () => received().at(-1) ?? 0,
    missing(after) {
      const seen = received().filter((seq) => seq >= after);
      return seen.length === 0 ? 0 : seen.at(-1)! - seen[0]! + 1 - seen.length;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await Promise.all([child.status, reading]);
    },
  };
}
