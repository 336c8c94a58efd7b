import { fault } from "@ultracloud/base";
import type { Lane } from "../harness/lane.ts";
import { baremetalIso } from "../baremetal/lane.ts";
import { hardwareSmokeProof } from "../hardware/lane.ts";
import { benchStorage } from "./bench_storage.ts";
import { controlPlaneOps } from "./control_plane_ops.ts";
import { deployerBootstrapE2e, hostLifecycleE2e } from "./deployer_bootstrap.ts";
import { durabilityDeployer } from "./deployer_durability.ts";
import { deployerVmRollback, deployerVmSmoke } from "./deployer_vm.ts";
import { durability } from "./durability.ts";
import { fleetSchedulerE2e } from "./fleet_scheduler_e2e.ts";
import { harnessCheck } from "./harness_check.ts";
import { membership } from "./membership.ts";
import { rolloutSoak } from "./rollout_soak.ts";
import { smoke } from "./smoke.ts";
import { soak } from "./soak.ts";
import { webapp } from "./webapp.ts";

/** Every lane, in the order people think of them. */
export const lanes: readonly Lane[] = [
  smoke,
  webapp,
  membership,
  durability,
  controlPlaneOps,
  fleetSchedulerE2e,
  deployerVmSmoke,
  deployerVmRollback,
  deployerBootstrapE2e,
  hostLifecycleE2e,
  durabilityDeployer,
  baremetalIso,
  hardwareSmokeProof,
  rolloutSoak,
  soak,
  benchStorage,
  harnessCheck,
];

/** The lane of a command: `fresh-smoke` starts clean, `smoke` uses the cluster that is up. */
export function laneOf(name: string): { readonly lane: Lane; readonly fresh: boolean } {
  const fresh = name.startsWith("fresh-");
  const wanted = fresh ? name.slice("fresh-".length) : name;
  const lane = lanes.find((candidate) => candidate.name === wanted);
  if (lane) return { lane, fresh };
  const names = lanes.map((candidate) => candidate.name).join(", ");
  throw fault("not_found", "lane_unknown", `Cannot find the lane ${wanted}: wanted one of ${names}`);
}
