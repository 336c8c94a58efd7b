import assert from "node:assert/strict";
import { testUnless } from "@ultracloud/testing";
import { openCgroup, probeCgroup } from "./cgroup.ts";
import { confine, probe, unheld } from "./confinement.ts";
import { openScope, probeSystemd, startLauncherUnit } from "./systemd.ts";

const none = { cpuMillis: undefined, memoryBytes: undefined, tasksMax: undefined };

/** Runs with programs that write down how they were called and do as systemd's would: a scope becomes its command. */
async function withRecorder(work: (calls: () => string[], dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const path = Deno.env.get("PATH")!;
  const script = (end: string) =>
    `#!/bin/sh\nprintf '%s ' "\${0##*/}" "$@" >> ${dir}/calls; echo >> ${dir}/calls\n${end}\n`;
  await Deno.writeTextFile(
    `${dir}/systemd-run`,
    script(
      'scope=; for word in "$@"; do [ "$word" = --scope ] && scope=1; done\n' +
        'while [ "$1" != -- ]; do shift; done; shift\n' +
        'if [ -n "$scope" ]; then exec "$@"; fi\n"$@" & exit 0',
    ),
    { mode: 0o700 },
  );
  const loaded =
    `case "$1 $2" in "is-active ultracloud-launch-web-1.service") exit 0;; show*) echo oom-kill; exit 0;; esac`;
  await Deno.writeTextFile(`${dir}/systemctl`, script(`${loaded}\nexit 5`), { mode: 0o700 });
  Deno.env.set("PATH", `${dir}:${path}`);
  try {
    await work(() => Deno.readTextFileSync(`${dir}/calls`).trim().split("\n").map((line) => line.trim()), dir);
  } finally {
    Deno.env.set("PATH", path);
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("under systemd an instance is a scope with its limits, bound to its launcher's unit, and stays its process", async () => {
  await withRecorder(async (calls, dir) => {
    const limits = { cpuMillis: 250, memoryBytes: 64 * 2 ** 20, tasksMax: 32 };
    const scope = await openScope({ id: "web-1", limits, text: "systemd" });
    const [program, ...args] = scope.wrap(["/bin/sh", "-c", "echo $$ $WORD"]);
    assert.equal(program, `${dir}/systemd-run`);
    const child = new Deno.Command(program!, { args, env: { WORD: "here" }, clearEnv: true, stdout: "piped" }).spawn();
    const { stdout } = await child.output();
    assert.equal(new TextDecoder().decode(stdout), `${child.pid} here\n`);
    assert.equal(await scope.outOfMemory(), true);
    await scope.kill();
    await scope[Symbol.asyncDispose]();
    const unit = "ultracloud-run-web-1.scope", launcher = "ultracloud-launch-web-1.service";
    const end = [`systemctl kill --signal=SIGKILL ${unit}`, `systemctl stop ${unit}`, `systemctl reset-failed ${unit}`];
    assert.deepEqual(calls(), [
      ...end,
      `systemctl is-active ${launcher}`,
      `systemd-run --quiet --scope --unit=${unit} --slice=ultracloud.slice --property=CPUQuota=25% ` +
      `--property=MemoryMax=67108864 --property=MemorySwapMax=0 --property=TasksMax=32 --property=TimeoutStopSec=5s ` +
      `--property=BindsTo=${launcher} --property=After=${launcher} -- /bin/sh -c echo $$ $WORD`,
      `systemctl show --property=Result --value ${unit}`,
      ...end,
    ]);
  });
});

Deno.test("under systemd a launcher gets a unit of its own, and a unit that never speaks is an error", async () => {
  await withRecorder(async (calls, dir) => {
    const command = ["/bin/sh", "-c", `touch ${dir}/status`];
    const isThere = () => [...Deno.readDirSync(dir)].some(({ name }) => name === "status");
    await startLauncherUnit({ id: "web-1", command, env: { HOME: "/root" } }, isThere);
    assert.equal(
      calls()[0],
      "systemd-run --quiet --collect --unit=ultracloud-launch-web-1.service --slice=ultracloud.slice " +
        `--property=Type=exec --description=UltraCloud instance web-1 --setenv=HOME=/root -- ${command.join(" ")}`,
    );
    await Deno.writeTextFile(`${dir}/systemd-run`, "#!/bin/sh\necho Access denied >&2\nexit 4\n");
    await assert.rejects(
      startLauncherUnit({ id: "web-1", command, env: {} }, () => false),
      /systemd-run ended with 4: Access denied/,
    );
  });
});

Deno.test("systemd counts where it is the init of the host, and nowhere else", async () => {
  const dir = await Deno.makeTempDir();
  try {
    assert.deepEqual(probeSystemd(dir)?.holds, ["cpuMillis", "memoryBytes", "tasksMax"]);
    assert.equal(probeSystemd(`${dir}/none`), undefined);
    const found = probe();
    assert.ok(found.reason !== "" && ["systemd", "cgroup", "group"].includes(found.kind));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("limits that a host does not hold are named; a process group holds none", async () => {
  assert.deepEqual(unheld({ ...none, memoryBytes: 1, tasksMax: 2 }, ["tasksMax"]), ["memoryBytes"]);
  assert.deepEqual(unheld(none, []), []);
  const group = { kind: "group", holds: [], reason: "" } as const;
  await using inside = await confine({ stateDir: "/none", id: "web-1", limits: { ...none, memoryBytes: 1 } }, group);
  assert.deepEqual([inside.text, inside.wrap(["a", "b"])], ["group", ["a", "b"]]);
});

const host = probeCgroup();

testUnless(
  "a control group ends what left its session, also under a launcher that comes after",
  typeof host === "string" ? host : undefined,
  async () => {
    const stateDir = await Deno.makeTempDir();
    const open = () => openCgroup({ stateDir, id: "web-1", limits: {}, text: "cgroup" });
    const start = async (inside: Awaited<ReturnType<typeof open>>) => {
      const script = "setsid sh -c 'echo $$; exec sleep 1000' & wait";
      const [program, ...args] = inside.wrap(["/bin/sh", "-c", script]);
      const child = new Deno.Command(program!, { args, stdout: "piped", detached: true }).spawn();
      const reader = child.stdout.getReader();
      const { value } = await reader.read();
      return { child, reader, escaped: Number(new TextDecoder().decode(value)) };
    };
    /** A zombie has ended: it only waits to be asked how. */
    const lives = (pid: number) => {
      try {
        return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
      } catch {
        return false;
      }
    };
    const ended = async ({ child, reader }: Awaited<ReturnType<typeof start>>) => {
      await child.status;
      await reader.cancel();
    };
    try {
      const first = await open();
      const one = await start(first);
      assert.ok(one.escaped !== one.child.pid && lives(one.escaped));
      // The launcher is gone without a word; the next one opens the same group.
      const next = await open();
      assert.equal(lives(one.escaped), false);
      await ended(one);
      const two = await start(next);
      await next.kill();
      assert.equal(lives(two.escaped), false);
      await ended(two);
      await next[Symbol.asyncDispose]();
    } finally {
      await Deno.remove(stateDir, { recursive: true });
    }
  },
);

const lacking = (limit: "memoryBytes" | "cpuMillis" | "tasksMax") =>
  typeof host === "string"
    ? host
    : host.holds.includes(limit)
    ? undefined
    : `${limit} is not held here: ${host.reason}`;

testUnless("a control group ends an instance that takes more memory than it may", lacking("memoryBytes"), async () => {
  const stateDir = await Deno.makeTempDir();
  try {
    await using inside = await openCgroup({
      stateDir,
      id: "fat",
      limits: { memoryBytes: 32 * 2 ** 20 },
      text: "cgroup",
    });
    const [program, ...args] = inside.wrap(["/bin/sh", "-c", "head -c 200000000 /dev/zero | tail"]);
    const { signal } = await new Deno.Command(program!, { args, stdout: "null" }).output();
    assert.equal(signal, "SIGKILL");
    assert.equal(await inside.outOfMemory(), true);
  } finally {
    await Deno.remove(stateDir, { recursive: true });
  }
});

testUnless("a control group starts no more processes than it may", lacking("tasksMax"), async () => {
  const stateDir = await Deno.makeTempDir();
  try {
    await using inside = await openCgroup({ stateDir, id: "many", limits: { tasksMax: 4 }, text: "cgroup" });
    const [program, ...args] = inside.wrap(["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"]);
    const { success, stderr } = await new Deno.Command(program!, { args, stderr: "piped" }).output();
    assert.equal(success, false);
    assert.match(new TextDecoder().decode(stderr), /fork/i);
    await inside.kill();
  } finally {
    await Deno.remove(stateDir, { recursive: true });
  }
});
