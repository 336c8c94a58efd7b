import assert from "node:assert/strict";
import { permissionsOf } from "@ultracloud/base";
import { certificateSha256, formatCmdline, readHandover } from "@ultracloud/bootstrap";
import { markerNames, parseMarkers } from "@ultracloud/cluster-state";
import { loadFleet, sourceDeno } from "@ultracloud/launch";
import { createTestCa, workspaceRoot } from "@ultracloud/testing";
import { answerOf, byId, system } from "./test_world.ts";

const token = "the-bootstrap-token";

/** Programs that write to a disk or restart the machine, played by scripts that note how they were called. */
async function playedPrograms(dir: string): Promise<void> {
  await Deno.mkdir(`${dir}/bin`);
  const disk = { kname: "vda", path: "/dev/vda", type: "disk", size: 2 ** 32, serial: "d1" };
  const part = (n: number, partlabel: string) => ({
    kname: `vda${n}`,
    path: `/dev/vda${n}`,
    type: "part",
    size: 1,
    partlabel,
  });
  const parts = [part(1, "uce-node01"), part(2, "ucr-node01")];
  const empty = JSON.stringify({ blockdevices: [disk] });
  const written = JSON.stringify({ blockdevices: [{ ...disk, pttype: "gpt", children: parts }] });
  const scripts: Readonly<Record<string, string>> = {
    "lsblk": `if [ -e ${dir}/written ]; then echo '${written}'; else echo '${empty}'; fi`,
    "sfdisk": `cat >/dev/null; : >${dir}/written`,
    "find": `case "$1" in /dev/*) printf '${byId}\\t../../vda\\n' ;; esac`,
  };
  const idle = ["blockdev", "chroot", "mkfs.ext4", "mkfs.vfat", "mount", "nix", "nix-env", "reboot", "sync"];
  for (const name of [...Object.keys(scripts), ...idle, "udevadm", "umount"]) {
    const text = `#!/bin/sh\necho "${name} $*" >>${dir}/calls\n${scripts[name] ?? ":"}\n`;
    await Deno.writeTextFile(`${dir}/bin/${name}`, text, { mode: 0o755 });
  }
}

Deno.test("the installer as a process, under its pinned permissions and over TLS: every step, and the token in no message", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-installer-process-" });
  for (const name of ["etc", "etc/dmi", "state", "run"]) await Deno.mkdir(`${dir}/${name}`);
  await playedPrograms(dir);
  const ca = await createTestCa();
  await ca.issueFiles(`${dir}/etc`, "tls", { spiffeId: "spiffe://test/svc/deployer", addresses: ["127.0.0.1"] });
  const pem = (name: string) => Deno.readTextFileSync(`${dir}/etc/${name}`);
  const { answer, content } = await answerOf();
  const tokens = new Set<string | null>();
  const posted: string[] = [];
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    cert: pem("tls.crt"),
    key: pem("tls.key"),
    onListen: () => {},
  }, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname.endsWith("/ca.crt")) return new Response(ca.caPem);
    tokens.add(request.headers.get("authorization"));
    if (pathname.endsWith("/phone-home")) return Response.json(answer);
    if (pathname.includes("/bundle/")) return new Response(content);
    posted.push((await request.json()).name);
    return Response.json({});
  });
  try {
    const host = `127.0.0.1:${(server.addr as Deno.NetAddr).port}`;
    await Deno.writeTextFile(`${dir}/etc/dmi/product_serial`, "SN-1\n");
    const parameters = {
      deployer_url: `https://${host}`,
      bootstrap_token: token,
      ca_cert_url: `https://${host}/api/v1/ca.crt`,
      ca_sha256: certificateSha256(ca.caPem),
      node_id: "node01",
    };
    await Deno.writeTextFile(`${dir}/etc/cmdline`, `quiet ${formatCmdline(parameters)}\n`);
    const config = {
      cmdlineFile: `${dir}/etc/cmdline`,
      dmiDir: `${dir}/etc/dmi`,
      stateDir: `${dir}/state`,
      targetDir: `${dir}/state/target`,
    };
    const toml = Object.entries(config).map(([name, value]) => `${name} = "${value}"\n`).join("");
    await Deno.writeTextFile(`${dir}/etc/config.toml`, `${toml}rebootCommand = ["reboot", "-f"]\n`);
    const { manifest, dir: source } = (await loadFleet(workspaceRoot)).get("installer")!;
    const flags = permissionsOf(manifest, {
      configDir: `${dir}/etc`,
      stateDir: `${dir}/state`,
      runDir: `${dir}/run`,
      trustFile: `${dir}/etc/trust.json`,
      listen: {},
      callees: { "deployer.bootstrap": [host] },
    });
    const [program, ...args] = [...sourceDeno(workspaceRoot), ...flags, `${source}/main.ts`];
    const ended = await new Deno.Command(program!, {
      args: [...args, "--config", `${dir}/etc/config.toml`],
      env: { PATH: `${dir}/bin:/usr/bin:/bin` },
      signal: AbortSignal.timeout(60_000),
    }).output();
    const said = new TextDecoder().decode(ended.stdout) + new TextDecoder().decode(ended.stderr);
    assert.equal(ended.code, 0, said);
    assert.deepEqual(parseMarkers(said).map(({ name }) => name), markerNames.slice(0, 6), said);
    assert.deepEqual(posted, markerNames.slice(0, 6));
    assert.deepEqual([...tokens], [`Bearer ${token}`]);
    assert.ok(!said.includes(token));
    const calls = await Deno.readTextFile(`${dir}/calls`);
    assert.ok(!calls.includes(token), "the token is in no program's arguments");
    assert.match(calls, new RegExp(`chroot ${config.targetDir} ${system}/bin/switch-to-configuration boot\\n`));
    assert.match(calls, /reboot -f\n$/);
    const handover = await readHandover(`${config.targetDir}/var/lib/ultracloud/bootstrap`);
    assert.deepEqual([handover.bootstrap_token, handover.ca_pem?.trim()], [token, ca.caPem.trim()]);
  } finally {
    await server.shutdown();
    await Deno.remove(dir, { recursive: true });
  }
});
