import type { Programs } from "./programs.ts";

/** Names of taps that this agent makes; it touches no other. */
const tapPattern = /^ut[0-9a-z]{12}$/;

interface Link {
  readonly ifname?: string;
  readonly operstate?: string;
}

/** Names of the devices in this network namespace. */
export async function devices(programs: Programs): Promise<Set<string>> {
  const links = JSON.parse(await programs.run("ip", ["-json", "link", "show"])) as Link[];
  return new Set(links.flatMap((link) => link.ifname === undefined ? [] : [link.ifname]));
}

/** Makes taps that are missing and removes those nobody wants; answers what it did. */
export async function applyTaps(
  wanted: readonly { readonly device: string; readonly mtu: number }[],
  programs: Programs,
): Promise<{ readonly made: number; readonly removed: number }> {
  const present = await devices(programs);
  let made = 0, removed = 0;
  for (const { device, mtu } of wanted) {
    if (present.delete(device)) continue;
    await programs.run("ip", ["tuntap", "add", "dev", device, "mode", "tap"]);
    await programs.run("ip", ["link", "set", "dev", device, "mtu", String(mtu), "up"]);
    made++;
  }
  for (const device of present) {
    if (!tapPattern.test(device)) continue;
    await programs.run("ip", ["link", "delete", "dev", device]);
    removed++;
  }
  return { made, removed };
}
