import { writeTar } from "@ultracloud/cli";
import { utf8 } from "@ultracloud/base";
import { ComputeCloud } from "./cloud.ts";
import type { Proof } from "./proof.ts";
import { unikernel } from "./unikernel.ts";

const uc = new URL("../../cli/main.ts", import.meta.url).pathname;
const publicKey = `ssh-ed25519 ${btoa(`\0\0\0\x0bssh-ed25519\0\0\0\x20${"k".repeat(32)}`)} somebody`;

/** The whole of a VM's life and of two workers, as a person has it: by `uc` alone, with what it prints. */
export async function operator(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"] });
  const file = (name: string) => `${cloud.dir}/${name}`;
  /** Runs `uc`; answers what it wrote to both, and fails unless it ends as wanted. */
  async function run(words: string, wanted = 0): Promise<string> {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", uc, ...words.split(" "), "-y"],
      env: { ...await cloud.ucEnvironment(), NO_COLOR: "1" },
      stdin: "null",
    }).output();
    const said = `${utf8.decode(stdout)}${utf8.decode(stderr)}`;
    if (code !== wanted) throw new Error(`uc ${words} ended with ${code} instead of ${wanted}: ${said}`);
    return said;
  }
  const tells = async (words: string, pattern: RegExp, wanted = 0) => {
    const said = await run(words, wanted);
    if (!pattern.test(said)) throw new Error(`uc ${words} does not say ${pattern}: ${said}`);
  };

  await Deno.writeTextFile(file("key.pub"), publicKey);
  await tells(`sshkey add mine --file ${file("key.pub")}`, /SHA256:/);
  await tells("flavor create wide --vcpus 2 --memory 64MiB", /wide/);
  await tells("flavor list", /tiny[\s\S]*wide/);
  await tells("group create apart --strictness hard", /apart/);
  const parts = { kernel: unikernel(), initrd: utf8.encode("none"), cmdline: utf8.encode("unikernel=1") };
  await Deno.writeFile(file("uni.tar"), writeTar(Object.entries(parts).map(([name, data]) => ({ name, data }))));
  await tells(`image import uni --file ${file("uni.tar")} --format kernel-bundle`, /uni/);
  await tells("image alias add kernel uni", /kernel/);
  await tells("image list", /tiny[\s\S]*uni/);
  proof.seen("keys, flavors, groups, images and aliases are made and listed");

  await tells("vm why --flavor tiny", /n1[\s\S]*n2[\s\S]*It would go to n[12]/);
  await run("vm create web --image tiny --subnet lan --sg web --key mine --group apart --restart always --cooldown 5m");
  await tells("vm list", /web\s+.*running/i);
  await run("vm create uni --image kernel@latest --machine microvm --group apart");
  await tells("vm create third --image tiny --group apart", /hard group|apart/i, 6);
  proof.seen("two VMs are kept apart; a third is refused, exit code 6, as no worker is left for it");
  await tells("vm why --flavor tiny --group apart", /no\s[\s\S]*It fits nowhere/);
  await tells("vm stop uni", /microvm/, 5);
  await tells("vm metrics", /web[\s\S]*MiB/);
  await run(`vm screenshot web --file ${file("screen.png")}`);
  const png = await Deno.readFile(file("screen.png"));
  proof.check(
    utf8.decode(png.subarray(1, 4)) === "PNG",
    `why not, metrics, and a screenshot of ${png.length} bytes as PNG`,
  );

  await run("volume create data --size 16MiB --shared");
  await tells("vm volume attach web data", /web/);
  await tells("volume grow data --size 32MiB", /32/);
  await tells("vm snapshot create web first", /first/);
  await tells("vm snapshot schedule web nightly --every 24h --keep 2", /nightly/);
  await run("vm snapshot unschedule nightly");
  await run("vm snapshot delete first");
  await run("vm volume detach web data");
  await run("vm nic attach web lan");
  await run("vm update web --restart on-failure --protect");
  await tells("vm delete web", /protected/, 5);
  await run("vm update web --no-protect");
  proof.seen("volumes, snapshots, NICs and policies are changed on the running VM");

  await run("vm delete uni");
  await tells("vm migrate web", /Moved from n[12]: \d+ ms down, \d+ ms in all/);
  await tells("node suggest", /Memory differs by \d+%/);
  const home = /n[12]/.exec(await run("vm show web --columns node"))![0];
  await tells(`node drain ${home}`, /./);
  await tells("operation list --cluster", /node\.drain/);
  await tells("node list", new RegExp(`${home}\\s.*cordoned`, "i"));
  await run(`node uncordon ${home}`);
  const now = /n[12]/.exec(await run("vm show web --columns node"))![0];
  proof.check(now !== home, `migrated, and drained off ${home} by an operation of the cluster`);

  for (const verb of ["pause", "resume", "reboot", "stop", "start"]) await run(`vm ${verb} web`);
  await run("vm resize web --flavor wide --restart");
  await run("vm rebuild web");
  await tells("operation list", /vm\.rebuild[\s\S]*vm\.create/);
  await tells("operation list --limit 2", /vm\.rebuild[\s\S]*The newest 2; there are older ones/);
  await run("vm delete web");
  await run("volume delete data");
  await run("group delete apart");
  await run("image alias delete kernel");
  await run("image delete uni");
  await run("flavor delete wide");
  await run("sshkey delete mine");
  await tells("vm show web", /not found|Cannot find/i, 3);
  const left = ["n1", "n2"].flatMap((name) => cloud.workers.qemusOf(name));
  proof.check(left.length === 0, "everything is deleted again, and no QEMU is left");
}
