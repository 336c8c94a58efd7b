/**
 * Where the time of plasmavmc goes while 1 000 VMs are listed again and again: self time by part and by function.
 * `deno run -A test-cluster/compute/list_profile_main.ts [seconds]`
 */
import { describeProfile, profileDuring } from "@ultracloud/testing";
import { ComputeCloud, project } from "./cloud.ts";
import { fillWithVms, planeStore } from "./_thousand_vms.ts";

const seconds = Number(Deno.args[0] ?? 5);

const dir = await Deno.makeTempDir({ prefix: "ucprofile" });
try {
  await using cloud = await ComputeCloud.open({ workers: ["n1"], profileDir: dir });
  await fillWithVms(cloud, planeStore(cloud), 1_000);
  const list = async () => void await cloud.vms.listVms({ project, page: { pageSize: 1_000 } });
  for (let i = 0; i < 20; i++) await list();
  let calls = 0, spentMs = 0;
  const [profile] = await profileDuring([dir], async () => {
    const start = performance.now();
    for (; (spentMs = performance.now() - start) < seconds * 1_000; calls++) await list();
  });
  console.log(
    describeProfile(`${calls} lists, ${(spentMs / calls).toFixed(1)} ms each while being profiled`, profile!),
  );
} finally {
  await Deno.remove(dir, { recursive: true });
}
