/** A member whose wall clock jumps to and fro, as far as tokens allow for clocks of two hosts. For tests. */
const jumpsMs = [0, 4_000, -4_000, 3_000, 0, -3_000];
const everyMs = 90;
const real = Date.now;
let at = Deno.pid;
Date.now = () => real() + jumpsMs[at % jumpsMs.length]!;
Deno.unrefTimer(setInterval(() => at++, everyMs) as unknown as number);
await import("./main.ts");
