import { fault } from "@ultracloud/base";
import type { Platform } from "@ultracloud/platform";
import { sumOf } from "./domain/placement.ts";
import type { Reservation, Resources } from "./domain/types.ts";
import { quotaKey } from "./kinds.ts";

/** Who may use how much. `reserve` and `release` are idempotent per holder. */
export interface QuotaEngine {
  /** Throws resource_exhausted, code `quota_exceeded`, when it would not fit now; keeps nothing. */
  check(project: string, wanted: Reservation): Promise<void>;
  reserve(project: string, holder: string, wanted: Reservation): Promise<void>;
  release(project: string, holder: string): Promise<void>;
}

export interface QuotaLimits extends Resources {
  readonly vms: number;
}

type Held = Record<string, Reservation>;

/** The same limits for every project, counted in this service's records. */
export function localQuota(limits: QuotaLimits, platform: Platform): QuotaEngine {
  const limitOf = {
    vmSlots: limits.vms,
    vcpus: limits.vcpus,
    memoryBytes: limits.memoryBytes,
    diskBytes: limits.diskBytes,
  };
  const titles = { vmSlots: "VMs", vcpus: "vCPUs", memoryBytes: "bytes of memory", diskBytes: "bytes of disk" };

  function admit(project: string, held: Held, wanted: Reservation): void {
    const sum = sumOf([...Object.values(held), wanted]);
    for (const name of ["vmSlots", "vcpus", "memoryBytes", "diskBytes"] as const) {
      if (sum[name] <= limitOf[name]) continue;
      throw fault(
        "resource_exhausted",
        "quota_exceeded",
        `Cannot give ${project} ${sum[name]} ${titles[name]}: wanted at most ${limitOf[name]}`,
        { metadata: { limit: name, wanted: String(sum[name]), allowed: String(limitOf[name]) } },
      );
    }
  }

  const change = (project: string, next: (held: Held) => Held) =>
    platform.transact(async (tx) => {
      const held = await tx.row<Held>(quotaKey(project)) ?? {};
      tx.putRow(quotaKey(project), next(held));
    }, { serialize: `quota/${project}` });

  return {
    async check(project, wanted) {
      admit(project, await platform.transact((tx) => tx.row<Held>(quotaKey(project))) ?? {}, wanted);
    },
    reserve: (project, holder, { vcpus, memoryBytes, diskBytes, vmSlots = 1 }) =>
      change(project, (held) => {
        const { [holder]: before, ...others } = held;
        const wanted = { vcpus, memoryBytes, diskBytes, vmSlots };
        // Less than it has is always granted: going back must not fail when limits were lowered meanwhile.
        const less = before && vcpus <= before.vcpus && memoryBytes <= before.memoryBytes &&
          diskBytes <= before.diskBytes;
        if (!less) admit(project, others, wanted);
        return { ...others, [holder]: wanted };
      }),
    release: (project, holder) => change(project, ({ [holder]: _, ...others }) => others),
  };
}
