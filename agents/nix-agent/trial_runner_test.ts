import assert from "node:assert/strict";
import { desiredSystemSchema } from "@ultracloud/cluster-state";
import type { Trial } from "./domain/journal.ts";
import { probeHost } from "./host.ts";
import { Nix } from "./nix.ts";
import { until } from "./test_world.ts";
import { TrialRunner } from "./trial_runner.ts";

const target = `/nix/store/${"a".repeat(32)}-system`;
const trial: Trial = {
  id: "01trial",
  intentId: "1",
  system: desiredSystemSchema.parse({
    target_system: target,
    health_check_command: ["true"],
    health_check_grace_ms: 0,
    health_check_attempts: 1,
  }),
  previousGeneration: 0,
  previousSystem: "",
  bootId: "boot-1",
  rebooting: false,
};

/** Programs that write down how they were called; a transient unit is a session of its own. */
async function withRecorder(work: (dir: string, calls: () => string[]) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const path = Deno.env.get("PATH")!;
  const script = (end: string) =>
    `#!/bin/sh\nprintf '%s ' "\${0##*/}" "$@" >> ${dir}/calls; echo >> ${dir}/calls\n${end}\n`;
  await Deno.writeTextFile(
    `${dir}/systemd-run`,
    script('while [ "$1" != /bin/sh ]; do shift; done\nexec setsid --fork "$@"'),
    { mode: 0o700 },
  );
  await Deno.writeTextFile(`${dir}/systemctl`, script("exit 0"), { mode: 0o700 });
  Deno.env.set("PATH", `${dir}:${path}`);
  try {
    await work(dir, () => Deno.readTextFileSync(`${dir}/calls`).trim().split("\n").map((line) => line.trim()));
  } finally {
    Deno.env.set("PATH", path);
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("under systemd a trial is a transient unit of its own, followed by its files; a good boot is told the loader", async () => {
  await withRecorder(async (dir, calls) => {
    const nix = new Nix({ root: `${dir}/root`, profile: "/profile", nixConfDir: undefined, home: dir });
    const stateDir = `${dir}/state`;
    const runner = new TrialRunner({ stateDir, launcher: "systemd", switchTimeoutMs: 1_000 }, nix);
    await runner.start(trial, "verify");
    assert.deepEqual(calls(), [
      `systemd-run --quiet --collect --unit=ultracloud-trial-01trial-verify /bin/sh ${stateDir}/trial.sh ${stateDir}/trial`,
    ]);
    await until("a healthy trial", async () => await runner.phase() === "healthy");
    assert.equal(await runner.alive(), true);
    await runner.confirm();
    await until("its result", async () => await runner.result() === "active");
    await until("its end", async () => !await runner.alive());
    await runner.blessBoot();
    assert.equal(calls()[1], "systemctl start systemd-bless-boot.service");
  });
});

Deno.test("a unit that does not start is an error, and no trial", async () => {
  await withRecorder(async (dir) => {
    await Deno.writeTextFile(`${dir}/systemd-run`, "#!/bin/sh\nexit 1\n");
    const nix = new Nix({ root: `${dir}/root`, profile: "/profile", nixConfDir: undefined, home: dir });
    const runner = new TrialRunner({ stateDir: `${dir}/state`, launcher: "systemd", switchTimeoutMs: 1_000 }, nix);
    await assert.rejects(runner.start(trial, "trial"), /Cannot start the trial: systemd-run ended with code 1/);
    assert.deepEqual([await runner.phase(), await runner.alive()], [undefined, false]);
  });
});

Deno.test("what carries trials is found, or what somebody set; a host without Nix says so", async () => {
  const dir = await Deno.makeTempDir();
  const path = Deno.env.get("PATH")!;
  try {
    const nix = new Nix({ root: "", profile: "/profile", nixConfDir: undefined, home: dir });
    const found = await probeHost("auto", nix);
    const booted = await Deno.stat("/run/systemd/system").then(() => true, () => false);
    assert.equal(found.launcher, booted ? "systemd" : "setsid");
    assert.match(found.reason, /systemd runs here/);
    Deno.env.set("PATH", dir);
    const set = await probeHost("systemd", nix);
    assert.deepEqual(set, {
      launcher: "systemd",
      reason: "it is set so",
      nixFound: false,
      nix: "Cannot start nix: wanted it on the PATH",
    });
  } finally {
    Deno.env.set("PATH", path);
    await Deno.remove(dir, { recursive: true });
  }
});
