import type { MigrationRecord } from "./domain/migration.ts";
import type { Machine } from "./machine.ts";
import type { StepDeps } from "./migration_source.ts";
import { dropTlsKey } from "./migration_tls.ts";

/** One look at a QEMU that waits for its guest. */
export async function stepTarget(machine: Machine, migration: MigrationRecord, deps: StepDeps): Promise<void> {
  const monitor = machine.live!.qemu.monitor;
  const { status } = await monitor.execute<{ status?: string }>("query-migrate");
  if (status === "completed") {
    await monitor.execute("nbd-server-stop").catch(() => {});
    await dropTlsKey(monitor, machine.at!);
    const { status: run } = await monitor.execute<{ status: string }>("query-status");
    if (machine.live && run === "running") machine.live.runState = { kind: "running" };
    await machine.save({
      desired: run === "running" ? "running" : "paused",
      migration: {
        ...migration,
        phase: "completed",
        endpoints: { ...migration.endpoints, psk: undefined },
        totalMs: deps.clock.nowMs() - migration.startedAtMs,
      },
    });
    return;
  }
  if (status === "failed" || deps.clock.nowMs() > migration.deadlineAtMs) {
    const reason = status === "failed" ? "QEMU could not take the guest in" : "no guest came within the time given";
    await machine.saveMigration({ ...migration, phase: "failed", reason });
    await machine.endAs({ state: "failed", reason });
  }
}
