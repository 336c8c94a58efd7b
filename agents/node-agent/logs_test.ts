import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import { logSegmentBytes, logSegmentsMax } from "./domain/files.ts";
import { LogWriter, segments } from "./launcher/log.ts";
import { logEnd, readLog } from "./logs.ts";

async function inDir(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await work(`${dir}/log`);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}
const { signal } = new AbortController();
const read = (dir: string, offset: number, limit = 100, waitMs = 0) =>
  readLog(dir, { offset, limit, waitMs }, systemClock, signal);
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("a log is read by offset, from the end, and with a wait for more", async () => {
  await inDir(async (dir) => {
    assert.deepEqual(await read(dir, 0), { offset: 0, data: new Uint8Array(), nextOffset: 0 });
    using log = new LogWriter(dir);
    log.write(bytes("one\ntwo\n"));
    assert.equal(text((await read(dir, 0)).data), "one\ntwo\n");
    assert.equal(text((await read(dir, 4, 2)).data), "tw");
    assert.deepEqual((({ offset, data }) => [offset, text(data)])(await read(dir, -4)), [4, "two\n"]);
    await assert.rejects(read(dir, 9), (error) => error instanceof Fault && error.code === "log_offset_beyond");
    const waiting = read(dir, 8, 100, 10_000);
    // Another writer goes on where this one ended, as after a restart of the instance.
    using next = new LogWriter(dir);
    next.write(bytes("three"));
    assert.equal(text((await waiting).data), "three");
    assert.equal(log.lastLine, "two");
  });
});

Deno.test("a log that floods keeps its newest segments and counts offsets on", async () => {
  await inDir(async (dir) => {
    using log = new LogWriter(dir);
    const piece = new Uint8Array(logSegmentBytes / 4 + 1).fill(65);
    const pieces = 4 * (logSegmentsMax + 3);
    for (let i = 0; i < pieces; i++) log.write(piece);
    assert.equal(logEnd(dir), pieces * piece.length);
    assert.ok(segments(dir).length <= logSegmentsMax);
    const first = segments(dir)[0]!;
    assert.ok(first > 0);
    const slice = await read(dir, 0, 10);
    assert.deepEqual([slice.offset, slice.data.length], [first, 10]);
    for (const { name } of Deno.readDirSync(dir)) assert.ok(Deno.statSync(`${dir}/${name}`).size <= logSegmentBytes);
  });
});
