import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import type { VmSpec } from "./domain/spec.ts";
import { isOver } from "./domain/migration.ts";
import { lookingMs, losesWrites, memoryOn } from "./domain/written_pages.ts";
import { refuseLostWrites } from "./machine_checks.ts";
import { consoleText } from "./testdata/guest_agent.ts";
import { restlessGuest } from "./testdata/restless_guest.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { until } from "./testdata/tiny_image.ts";
import { withWorkers } from "./testdata/workers.ts";
import type { Vms } from "./vms.ts";

const mib = 2 ** 20;
const spec = specFixture({ image: restlessGuest.ref, nics: [], memoryBytes: 32 * mib, diskBytes: mib });
const { vmId } = spec;
const id = "mig_01J00000000000000000000001";

async function start(from: Vms, to: Vms): Promise<void> {
  const storage = "mirror";
  const there: VmSpec = { ...spec, generation: 2, writerEpoch: 2 };
  const endpoints = await to.prepareIncoming(there, { id, storage, layout: from.get(vmId).layout!, deadlineMs: 0 });
  await from.startMigration(vmId, {
    id,
    storage,
    endpoints,
    targetWriterEpoch: 2,
    autoConverge: true,
    // Slow enough that pages which were sent twice are written again before the guest stops; fast enough to come to an end.
    bandwidthBytesPerSecond: 2 * mib,
    maxDowntimeMs: 20,
    hold: false,
    deadlineMs: 60_000,
  });
}

Deno.test("memoryOn() adds what keeps an emulation before QEMU 9 from losing writes, and nothing elsewhere", () => {
  const old = { accelerator: "tcg", qemuMajor: 8, qemuMinor: 2 } as const;
  for (const wanted of [16, 128, 257, 4_096, 16 * mib].map((n) => n * mib)) {
    assert.ok(losesWrites(old, wanted));
    assert.equal(memoryOn(old, wanted), wanted + 8_192);
    assert.ok(!losesWrites(old, memoryOn(old, wanted)));
    assert.equal(memoryOn({ ...old, accelerator: "kvm" }, wanted), wanted);
    assert.equal(memoryOn({ ...old, qemuMajor: 9 }, wanted), wanted);
  }
  const looks = [256, 1_280, 2_304].map((n) => lookingMs(memoryOn(old, n * mib)));
  assert.deepEqual(looks, [0, 250, 500]);
  assert.equal(lookingMs(1_280 * mib), 0);
});

withWorkers("a guest that writes all the time arrives with what it wrote last", async (workers) => {
  const { vms: a } = await workers.open("a");
  const { vms: b } = await workers.open("b");
  await a.ensure(spec);
  await consoleText(a, vmId, 0, /R\./, 60_000);
  await start(a, b);
  const record = await until("the end of the migration", 60_000, () => {
    const { record } = a.migration(vmId, id);
    return Promise.resolve(isOver(record.phase) && record);
  });
  assert.equal(record.phase, "completed", record.reason);
  // By then it has looked at each of its pages.
  const said = await consoleText(b, vmId, 0, /^.*(B|\.\.)/s, 60_000);
  assert.ok(!said.includes("B"), `a page is of an earlier moment: the guest said ${JSON.stringify(said)}`);
});

Deno.test("refuseLostWrites() asks QEMU itself, and names what helps", async () => {
  const monitorOf = (major: number, isKvm: boolean, memoryBytes: number) => {
    const answers: Record<string, unknown> = {
      "query-kvm": { enabled: isKvm, present: true },
      "query-memory-size-summary": { "base-memory": memoryBytes },
    };
    return {
      version: { major, minor: 2, micro: 0 },
      execute: <T>(name: string) => Promise.resolve(answers[name] as T),
    };
  };
  await assert.rejects(
    refuseLostWrites(monitorOf(7, false, 256 * mib), vmId),
    (error) => error instanceof Fault && error.code === "writes_unnoticed" && /stopped and started/.test(error.message),
  );
  await refuseLostWrites(monitorOf(7, false, 256 * mib + 8_192), vmId);
  await refuseLostWrites(monitorOf(7, true, 256 * mib), vmId);
  await refuseLostWrites(monitorOf(9, false, 256 * mib), vmId);
});
