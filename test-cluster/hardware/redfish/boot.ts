import { Fault, fault } from "@ultracloud/base";
import { linkOf, linksOf, partOf, type Redfish, type Resource, textOf, textsOf } from "./client.ts";
import { allowableValues, type DiscoveredSystem } from "./discover.ts";

/** Machines with much memory take minutes to lose power in order. */
const powerTimeoutMs = 120_000;
const powerPollMs = 1_000;

/** What boots the virtual drive: this attribute of iDRACs, whose `Cd` is the physical drive, or the standard one. */
const vendorBoot = { device: "ServerBoot.1.FirstBootDevice", once: "ServerBoot.1.BootOnce" } as const;
/** Best first: where a BMC tells a virtual drive on USB from a disc, the former is meant. */
const bootTargets = ["UsbCd", "Cd"] as const;

/** Lets the next boot, and only it, come from the virtual drive; answers how, as words for a log. */
export async function bootOnceFromMedia(redfish: Redfish, found: DiscoveredSystem): Promise<string> {
  for (const path of await attributePaths(redfish, found)) {
    const attributes = partOf(await readIfThere(redfish, path), "Attributes");
    if (!(vendorBoot.device in attributes)) continue;
    await redfish.patch(path, { Attributes: { [vendorBoot.once]: "Enabled", [vendorBoot.device]: "VCD-DVD" } });
    return `${vendorBoot.device}=VCD-DVD, once, at ${path}`;
  }
  const boot = partOf(await redfish.get(found.path), "Boot");
  const allowed = textsOf(boot, "BootSourceOverrideTarget@Redfish.AllowableValues");
  const target = bootTargets.find((candidate) => allowed.includes(candidate));
  if (target === undefined && allowed.length > 0) {
    throw fault(
      "failed_precondition",
      "bmc_no_cd_boot",
      `Cannot boot ${found.path} from a CD: it allows ${allowed.join(", ")}`,
    );
  }
  const once = { BootSourceOverrideTarget: target ?? "Cd", BootSourceOverrideEnabled: "Once" };
  try {
    const mode = "BootSourceOverrideMode" in boot ? { BootSourceOverrideMode: "UEFI" } : {};
    await redfish.patch(found.path, { Boot: { ...once, ...mode } });
  } catch (error) {
    // Some advertise the mode and let only the BIOS setup change it.
    if (!(error instanceof Fault) || error.detail.metadata?.status !== "400") throw error;
    await redfish.patch(found.path, { Boot: once });
  }
  const after = partOf(await redfish.get(found.path), "Boot");
  const shown = `${textOf(after, "BootSourceOverrideTarget")}, ${textOf(after, "BootSourceOverrideEnabled")}`;
  if (shown === `${once.BootSourceOverrideTarget}, Once`) return `BootSourceOverrideTarget=${shown}`;
  throw fault(
    "failed_precondition",
    "bmc_boot_not_taken",
    `Cannot boot ${found.path} once from ${once.BootSourceOverrideTarget}: it was accepted, and the system shows ${shown}`,
  );
}

/** Documents in which a maker keeps settings of its own, as its managers refer to them. */
async function attributePaths(redfish: Redfish, found: DiscoveredSystem): Promise<string[]> {
  const paths: string[] = [];
  for (const path of found.managerPaths) {
    const manager = await redfish.get(path);
    const direct = linkOf(manager, "Attributes");
    if (direct !== undefined) paths.push(direct);
    paths.push(...linksOf(partOf(partOf(partOf(manager, "Links"), "Oem"), "Dell"), "DellAttributes"));
  }
  return paths;
}

async function readIfThere(redfish: Redfish, path: string): Promise<Resource> {
  try {
    return await redfish.get(path);
  } catch (error) {
    if (error instanceof Fault && error.code === "bmc_refused") return {};
    throw error;
  }
}

/** "On", "Off", "PoweringOn" ... as the system says. */
export async function powerState(redfish: Redfish, found: DiscoveredSystem): Promise<string> {
  return textOf(await redfish.get(found.path), "PowerState") ?? "unknown";
}

/** Starts the machine afresh by what it advertises; answers the reset types used, in order. */
export async function resetSystem(redfish: Redfish, found: DiscoveredSystem): Promise<readonly string[]> {
  const system = await redfish.get(found.path);
  const action = partOf(partOf(system, "Actions"), "#ComputerSystem.Reset");
  const target = textOf(action, "target");
  if (target === undefined) {
    throw fault("failed_precondition", "bmc_no_reset", `Cannot reset ${found.path}: it has no such action`);
  }
  const allowed = await allowableValues(redfish, action, "ResetType");
  const plan = planReset(textOf(system, "PowerState") === "Off", allowed);
  if (plan === undefined) {
    throw fault(
      "failed_precondition",
      "bmc_no_reset",
      `Cannot reset ${found.path}: it advertises ${allowed.join(", ") || "nothing"}, wanted a way to on`,
    );
  }
  for (const type of plan) {
    await redfish.post(target, { ResetType: type });
    if (type === "ForceOff") await waitForPower(redfish, found, "Off");
  }
  await waitForPower(redfish, found, "On");
  return plan;
}

/** Reset types that start a machine from its state; undefined when those advertised do not suffice. */
export function planReset(off: boolean, allowed: readonly string[]): readonly string[] | undefined {
  const first = (types: readonly string[]) => types.find((type) => allowed.includes(type));
  const on = first(["On", "ForceOn"]);
  if (off) return on === undefined ? undefined : [on];
  const restart = first(["ForceRestart", "PowerCycle", "FullPowerCycle"]);
  if (restart !== undefined) return [restart];
  return allowed.includes("ForceOff") && on !== undefined ? ["ForceOff", on] : undefined;
}

async function waitForPower(redfish: Redfish, found: DiscoveredSystem, wanted: string): Promise<void> {
  const end = redfish.clock.monotonicMs() + powerTimeoutMs;
  for (;;) {
    const state = await powerState(redfish, found);
    if (state === wanted) return;
    if (redfish.clock.monotonicMs() >= end) {
      throw fault(
        "deadline_exceeded",
        "bmc_power",
        `Cannot wait for power ${wanted}: it is ${state} after ${powerTimeoutMs} ms`,
      );
    }
    await redfish.clock.sleep(powerPollMs, redfish.signal);
  }
}
