import assert from "node:assert/strict";
import { fault, systemClock } from "@ultracloud/base";
import type { MigrationRecord } from "./domain/migration.ts";
import { HostUser } from "./host_user.ts";
import type { Machine } from "./machine.ts";
import { stepSource } from "./migration_source.ts";
import type { VmRecord } from "./records.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import type { Volumes } from "./volumes.ts";

interface Job {
  device: string;
  ready: boolean;
  status: string;
  error?: string;
}

/** As much of a QEMU as a migration's source speaks to, and the VM around it. */
class World {
  status = "none";
  jobs: Job[] = [];
  refuse: Record<string, string> = {};
  readonly said: string[] = [];
  readonly asked: string[] = [];
  /** QEMU has said that the guest waits to be let go. */
  paused = false;
  /** Of a copy that is told to come to its end. */
  endsWith: Partial<Job> = { status: "concluded" };
  onCommand: (command: string) => void = () => {};
  nowMs = 1_000;
  record: VmRecord;
  end: unknown;

  constructor(migration: Partial<MigrationRecord> = {}) {
    this.record = {
      version: 1,
      spec: specFixture(),
      desired: "running",
      run: undefined,
      end: undefined,
      writerEpoch: 1,
      migration: {
        id: "mig_1",
        role: "source",
        storage: "mirror",
        phase: "mirroring",
        reason: "",
        startedAtMs: 1_000,
        deadlineAtMs: 60_000,
        endpoints: { stateUri: "unix:/t", mirrors: [{ device: "root", uri: "nbd+unix:///r?socket=/n" }] },
        options: { autoConverge: true, bandwidthBytesPerSecond: 0, maxDowntimeMs: 100, hold: false },
        targetWriterEpoch: 2,
        downtimeMs: 0,
        totalMs: 0,
        ...migration,
      },
    };
  }

  get migration(): MigrationRecord {
    return this.record.migration!;
  }

  /** Looks once, as the loop of a migration does. */
  async step(): Promise<void> {
    const current = () => this.record;
    const machine = {
      spec: this.record.spec,
      get record() {
        return current();
      },
      live: {
        runState: { kind: "paused" },
        qemu: { monitor: { execute: this.#execute.bind(this), onEvent: () => () => {} } },
      },
      disks: () => [{ device: "root", source: { kind: "file", path: "/d" }, sizeBytes: 1, readOnly: false }],
      save: (change: Partial<VmRecord>) => {
        this.record = { ...this.record, ...change };
        this.said.push(`save ${change.writerEpoch ?? ""} ${change.migration?.phase ?? ""}`);
        return Promise.resolve();
      },
      saveMigration: (migration: MigrationRecord) => {
        this.record = { ...this.record, migration };
        this.said.push(`phase ${migration.phase}${migration.continued ? " continued" : ""}`);
        return Promise.resolve();
      },
      endAs: (end: unknown) => {
        this.end = end;
        return Promise.resolve();
      },
    } as unknown as Machine;
    await stepSource(machine, this.migration, {
      clock: { ...systemClock, nowMs: () => this.nowMs },
      volumes: {} as Volumes,
      user: new HostUser({ uidFirst: undefined }),
      progress: () => {},
      paused: this.paused,
      later: (work) => void work,
    });
  }

  #execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const refused = this.refuse[command];
    if (refused !== undefined) return Promise.reject(fault("failed_precondition", "qmp_error", refused));
    (command.startsWith("query-") ? this.asked : this.said).push(command);
    this.onCommand(command);
    switch (command) {
      case "query-migrate":
        return Promise.resolve({ status: this.status, downtime: 7, "error-desc": "broken pipe" });
      case "query-migrate-capabilities":
        return Promise.resolve(
          ["events", "return-path", "pause-before-switchover"].map((capability) => ({ capability })),
        );
      case "query-block":
        return Promise.resolve([{
          qdev: "/machine/peripheral/disk-root/virtio-backend",
          inserted: { "node-name": "root", image: { "virtual-size": 1 } },
        }]);
      case "query-block-jobs":
        return Promise.resolve(this.jobs.map((job) => ({ ...job, len: 2, offset: 1 })));
      case "query-jobs":
        return Promise.resolve(this.jobs.map(({ device, ...job }) => ({ id: device, ...job })));
      case "blockdev-mirror":
        this.jobs.push({ device: String(args["job-id"]), ready: false, status: "running" });
        break;
      case "block-job-cancel":
        for (const job of this.jobs) Object.assign(job, this.endsWith);
        break;
      case "job-dismiss":
        this.jobs = this.jobs.filter((job) => job.device !== args.id);
        break;
      case "migrate":
        this.status = "active";
        break;
      case "migrate_cancel":
        this.status = "cancelled";
        break;
      case "migrate-continue":
        this.status = "device";
        break;
      case "migrate-set-capabilities":
        this.said.push(JSON.stringify(args.capabilities));
    }
    return Promise.resolve({});
  }
}

Deno.test("stepSource() copies disks, stamps them, sends the memory, and ends the copies before it lets the guest go", async () => {
  const world = new World();
  await world.step();
  assert.deepEqual(world.said.splice(0), ["blockdev-del", "blockdev-add", "blockdev-mirror"]);
  await world.step();
  assert.deepEqual(world.said.splice(0), [], "a copy that is not ready is waited for");
  world.jobs[0]!.ready = true;
  await world.step();
  assert.equal(world.migration.phase, "memory");
  assert.match(world.said.join(), /"pause-before-switchover","state":true/);
  assert.ok(world.said.indexOf("save 2 ") < world.said.indexOf("migrate"), "nobody starts it here with its old epoch");
  assert.doesNotMatch(world.said.join(), /auto-converge/, "only what this QEMU knows is asked for");
  world.status = "pre-switchover";
  world.said.length = 0;
  await world.step();
  assert.deepEqual(world.said, [
    "block-job-cancel",
    "job-dismiss",
    "phase memory continued",
    "migrate-continue",
  ]);
  world.status = "completed";
  await world.step();
  assert.deepEqual([world.migration.phase, world.migration.downtimeMs, world.record.desired], [
    "completed",
    7,
    "stopped",
  ]);
  assert.deepEqual(world.end, { state: "stopped", reason: "moved to another worker" });
});

Deno.test("stepSource() holds the switchover until it is told to go on", async () => {
  const world = new World({ storage: "shared", phase: "memory" });
  world.record = {
    ...world.record,
    migration: { ...world.migration, options: { ...world.migration.options!, hold: true } },
  };
  world.status = "pre-switchover";
  await world.step();
  await world.step();
  assert.deepEqual(world.said.splice(0), ["phase switchover"]);
  world.record = { ...world.record, migration: { ...world.migration, released: true } };
  await world.step();
  assert.deepEqual(world.said, ["save 2 ", "phase switchover continued", "migrate-continue"]);
});

Deno.test("stepSource() asks nothing that QEMU has told and writes nothing first while the guest stands still", async () => {
  const world = new World({ phase: "memory" });
  world.record = { ...world.record, writerEpoch: 2 };
  world.jobs = [{ device: "mirror-root", ready: true, status: "ready" }];
  world.endsWith = { status: "pending" };
  world.status = "pre-switchover";
  world.paused = true;
  await world.step();
  assert.deepEqual([world.asked.splice(0), world.said.splice(0)], [["query-jobs"], ["block-job-cancel"]]);
  world.endsWith = { status: "concluded" };
  await world.step();
  assert.deepEqual(world.asked.splice(0), ["query-jobs"]);
  assert.deepEqual(world.said.splice(0), [
    "block-job-cancel",
    "job-dismiss",
    "phase memory continued",
    "migrate-continue",
  ]);
  await world.step();
  assert.deepEqual([world.said, world.asked[0]], [[], "query-migrate"], "it is let go once");

  const shared = new World({ storage: "shared", phase: "memory" });
  shared.record = { ...shared.record, writerEpoch: 2 };
  shared.status = "pre-switchover";
  shared.paused = true;
  await shared.step();
  assert.deepEqual([shared.asked, shared.said], [[], ["phase memory continued", "migrate-continue"]]);
});

Deno.test("stepSource() keeps the guest when a copy fails at its very end", async () => {
  const world = new World({ phase: "memory" });
  world.jobs = [{ device: "mirror-root", ready: true, status: "ready" }];
  world.endsWith = { status: "concluded", error: "no space left" };
  world.status = "pre-switchover";
  world.paused = true;
  await world.step();
  assert.deepEqual(world.said, ["block-job-cancel", "migrate_cancel"]);
  world.paused = false;
  await world.step();
  assert.deepEqual([world.migration.phase, world.jobs], ["failed", []]);
  assert.match(world.migration.reason, /mirror-root failed: no space left/);
  assert.ok(world.said.includes("cont") && !world.said.includes("migrate-continue"));
});

Deno.test("stepSource() gives up when it is cancelled while the copies come to their end", async () => {
  const world = new World({ phase: "memory" });
  world.jobs = [{ device: "mirror-root", ready: true, status: "ready" }];
  world.status = "pre-switchover";
  world.paused = true;
  world.onCommand = (command) => {
    if (command !== "block-job-cancel") return;
    world.record = { ...world.record, migration: { ...world.migration, cancelled: true } };
  };
  for (let i = 0; i < 5 && world.migration.phase !== "cancelled"; i++) await world.step();
  assert.equal(world.migration.phase, "cancelled");
  assert.ok(world.said.includes("cont") && !world.said.includes("migrate-continue"));
});

Deno.test("stepSource() leaves a guest alone that an agent let go which died before it could note it", async () => {
  const world = new World({ phase: "memory", cancelled: true });
  world.status = "device";
  await world.step();
  assert.deepEqual(world.said.splice(0), []);
  world.status = "completed";
  await world.step();
  assert.deepEqual([world.migration.phase, world.said], ["completed", ["save  completed"]]);
  assert.deepEqual(world.end, { state: "stopped", reason: "moved to another worker" });
});

Deno.test("stepSource() does not take for its own end what QEMU says of the migration that brought the guest", async () => {
  const world = new World({ storage: "shared", phase: "prepared" });
  world.status = "completed";
  await world.step();
  assert.ok(world.said.includes("migrate"));
  assert.equal(world.end, undefined);
});

Deno.test("stepSource() keeps the guest when it is cancelled, late, refused or left alone", async () => {
  const ends: [Partial<MigrationRecord>, (world: World) => void, string, RegExp][] = [
    [{ phase: "memory", cancelled: true }, (world) => world.status = "active", "cancelled", /cancelled/],
    [
      { phase: "memory" },
      (world) => {
        world.status = "active";
        world.nowMs = 70_000;
      },
      "failed",
      /not over within/,
    ],
    [{ phase: "memory" }, (world) => world.status = "failed", "failed", /broken pipe/],
    [{}, (world) => world.refuse = { "blockdev-add": "no such socket" }, "failed", /no such socket/],
    [
      {},
      (world) => {
        world.jobs = [{ device: "mirror-root", ready: false, status: "concluded", error: "I/O error" }];
      },
      "failed",
      /the copy of mirror-root failed: I\/O error/,
    ],
    [{ phase: "memory", continued: true }, (world) => world.status = "failed", "failed", /broken pipe/],
  ];
  for (const [migration, arrange, phase, reason] of ends) {
    const world = new World(migration);
    arrange(world);
    for (let i = 0; i < 5 && world.migration.phase !== phase; i++) await world.step();
    assert.equal(world.migration.phase, phase);
    assert.match(world.migration.reason, reason);
    assert.ok(world.said.includes("cont"), "the guest runs");
    assert.deepEqual(world.jobs, [], "no copy is left");
    assert.equal(world.end, undefined);
  }
});

Deno.test("stepSource() does not take back a guest that it has let go", async () => {
  const world = new World({ phase: "memory", continued: true, cancelled: true });
  world.status = "device";
  await world.step();
  assert.deepEqual(world.said, []);
});
