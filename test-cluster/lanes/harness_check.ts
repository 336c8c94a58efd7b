import assert from "node:assert/strict";
import { AlarmAction, AlarmType, MaintenanceService } from "@ultracloud/proto/chainfire/v1";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { chainfireProbe } from "../harness/stores.ts";
import { patient, waitFor } from "../harness/wait.ts";

const udpPort = 9;
/** Long beside the way between two nodes, so that what has not come by then was lost. */
const lossMs = 1_000;

/** Long beside the calls that look at it, and the life of a token. */
const jumpS = 3_600;

/** Counts datagrams that arrive from each sender until it is told to stop. */
const listenCode = `
import { createSocket } from "node:dgram";
const socket = createSocket("udp4");
socket.on("message", (data) => { console.log("got " + data); Deno.exit(0); });
socket.bind(${udpPort}, () => console.error("listening"));
setTimeout(() => { console.log("nothing"); Deno.exit(0); }, Number(Deno.args[0]));
`;
const sendCode = `
import { createSocket } from "node:dgram";
const socket = createSocket("udp4");
const timer = setInterval(() => socket.send("hello", ${udpPort}, Deno.args[0]), 50);
setTimeout(() => { clearInterval(timer); socket.close(); }, Number(Deno.args[1]));
`;

/** A node's own clock, seconds of the epoch. */
async function clockOf(run: LaneRun, node: string): Promise<number> {
  const { code, stdout, stderr } = await run.cluster.substrate.exec(node, ["date", "+%s"]);
  assert.equal(code, 0, stderr);
  return Number(stdout);
}

/** Whether what `from` sends reaches `to`. */
async function reaches(run: LaneRun, from: string, to: string): Promise<boolean> {
  const { substrate, file } = run.cluster;
  const evaluate = (code: string, ...args: string[]) => [substrate.deno, "eval", "--quiet", code, ...args];
  // The sender begins when the listener may not listen yet and goes on for longer: no race decides.
  const listening = substrate.exec(to, evaluate(listenCode, String(2 * patient(lossMs))));
  const sending = substrate.exec(from, evaluate(sendCode, file.nodes[to]!.address, String(2 * patient(lossMs))));
  const [heard] = await Promise.all([listening, sending]);
  assert.equal(heard.code, 0, heard.stderr);
  return heard.stdout.trim() === "got hello";
}

/** The harness itself: each fault does what it says, and nothing more. */
export const harnessCheck: Lane = {
  name: "harness-check",
  summary: "the faults of the harness do what they say: cuts, pauses, power, clocks, full disks",
  profile: "harness",
  async run(run) {
    const { cluster, faults } = run;
    const [a, b, c] = cluster.nodes as [string, string, string];
    const probe = chainfireProbe(cluster);
    const write = (value: string) =>
      waitFor({ timeoutMs: 60_000, what: "a write", signal: run.signal }, async () => {
        await probe.put("/lane/harness", value);
        return true;
      });
    await run.check("a one-way cut loses one direction and keeps the other", async () => {
      assert.ok(await reaches(run, a, b), "before the cut");
      await faults.cutOneWay(a, b);
      const [there, back] = await Promise.all([reaches(run, a, b), reaches(run, b, a)]);
      assert.deepEqual({ there, back }, { there: false, back: true });
      await faults.heal();
      assert.ok(await reaches(run, a, b), "after the cut");
      return `${a} to ${b}`;
    });
    await run.check("a partition cuts both ways, and the majority goes on", async () => {
      await faults.partition([c]);
      const [out, back] = await Promise.all([reaches(run, c, a), reaches(run, a, c)]);
      assert.deepEqual({ out, back }, { out: false, back: false });
      await write("partitioned");
      assert.notEqual(await probe.leader([a, b], 60_000), c);
      await faults.heal();
      await waitFor(
        { timeoutMs: 60_000, what: `${c} to catch up`, signal: run.signal },
        async () => (await probe.getLocal("/lane/harness", c)) === "partitioned" || undefined,
      );
      return `${c} was alone`;
    });
    await run.check("a paused node answers nothing and goes on afterwards", async () => {
      await cluster.substrate.pause(b);
      assert.equal(await cluster.isReady(b, "chainfire"), false);
      await cluster.substrate.resume(b);
      await cluster.waitReady(b, "chainfire", run.signal);
      return b;
    });
    await run.check("a node without power has no process, and returns with its data", async () => {
      await write("before the power cut");
      await cluster.substrate.powerOff(a);
      assert.deepEqual(await cluster.substrate.processes(a), []);
      await cluster.substrate.powerOn(a);
      await cluster.startAll({ nodes: [a], signal: run.signal });
      await waitFor(
        { timeoutMs: 60_000, what: `${a} to catch up`, signal: run.signal },
        async () => (await probe.getLocal("/lane/harness", a)) === "before the power cut" || undefined,
      );
      return a;
    });
    if (!cluster.substrate.ownClocks) run.skip("a clock that jumps", `nodes of ${cluster.substrate.name} share one`);
    else {
      await run.check(
        "a node's clock jumps, alone: the others go on, and it catches up when it is right again",
        async () => {
          const ahead = async () => await clockOf(run, c) - await clockOf(run, a);
          const before = await ahead();
          await faults.stepClock(c, jumpS);
          const jumped = await ahead() - before;
          assert.ok(Math.abs(jumped - jumpS) < jumpS / 2, `it jumped by ${jumped} s`);
          // Nobody's tokens hold there now: the others go on without it.
          await write("the clock jumped");
          await faults.stepClock(c, -jumpS);
          const back = await ahead() - before;
          assert.ok(Math.abs(back) < jumpS / 2, `it is ${back} s off`);
          await waitFor(
            { timeoutMs: 60_000, what: `${c} to catch up`, signal: run.signal },
            async () => (await probe.getLocal("/lane/harness", c)) === "the clock jumped" || undefined,
          );
          return `${c} was ${jumped} s ahead`;
        },
      );
    }
    await run.check("a full disk takes no byte more: writes are refused under an alarm, reads go on", async () => {
      await write("before the disk is full");
      await faults.fillDisk(c);
      const path = `${cluster.substrate.dirs(c).state}/one-more`;
      const more = await cluster.substrate.exec(c, ["dd", "if=/dev/zero", `of=${path}`, "bs=4096", "count=1"]);
      assert.notEqual(more.code, 0);
      const maintenance = cluster.clients.of(MaintenanceService, "chainfire", { timeoutMs: 2_000 });
      await waitFor({ timeoutMs: 60_000, what: "the alarm", signal: run.signal }, async () => {
        const { alarms } = await maintenance.alarm({ action: AlarmAction.GET });
        return alarms.some(({ type }) => type === AlarmType.NOSPACE) || undefined;
      });
      await assert.rejects(probe.put("/lane/harness", "refused"), { kind: "resource_exhausted" });
      assert.equal(await probe.get("/lane/harness"), "before the disk is full");
      await faults.freeDisk(c);
      await cluster.substrate.exec(c, ["rm", "-f", path]);
      await waitFor({ timeoutMs: 60_000, what: "a write without alarm", signal: run.signal }, async () => {
        await maintenance.alarm({ action: AlarmAction.DEACTIVATE, type: AlarmType.NOSPACE });
        await probe.put("/lane/harness", "after a full disk");
        return true;
      });
      await waitFor(
        { timeoutMs: 60_000, what: `${c} to catch up`, signal: run.signal },
        async () => (await probe.getLocal("/lane/harness", c)) === "after a full disk" || undefined,
      );
      return c;
    });
  },
};
