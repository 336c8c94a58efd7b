import assert from "node:assert/strict";
import { missingPrograms, testUnless, workspaceRoot } from "@ultracloud/testing";
import { openFlake, whyNoNix } from "./_flake.ts";

/**
 * The packages' own commands, run here: npm's tarballs are what deno.lock says, and a build that may ask nobody compiles
 * from the cache that is laid out of them. The runtime is a stand-in, as there is no denort here, so that the result is
 * thrown away: a compilation is proven, no program.
 */

interface Listed {
  readonly name: string;
  readonly version: string;
  readonly integrity: string;
  tarball: string;
}

const why = whyNoNix ?? missingPrograms("npm", "node", "bash", "tar");
const work = Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${workspaceRoot}/work`;
const fetchesAtOnce = 4;

async function run(program: string, args: readonly string[], options: Deno.CommandOptions = {}): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args: [...args], ...options }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (success) return text(stdout);
  throw new Error(`Cannot run ${program} ${args.join(" ").slice(0, 100)}: ${text(stderr).trim().slice(-800)}`);
}

async function integrityOf(path: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-512", await Deno.readFile(path));
  return `sha512-${new Uint8Array(digest).toBase64()}`;
}

/** The tarball of a package as its derivation fetches it; kept for the next run. */
async function fetchTarball({ name, version, integrity }: Listed): Promise<string> {
  const dir = `${work}/cache/npm-tarballs`;
  const path = `${dir}/${name.replaceAll(/[@/]/g, "_")}-${version}.tgz`;
  await Deno.mkdir(dir, { recursive: true });
  if (await Deno.stat(path).then(() => true, () => false)) {
    if (await integrityOf(path) === integrity) return path;
    await Deno.remove(path);
  }
  const fresh = await Deno.makeTempDir({ dir });
  try {
    await run("npm", ["pack", "--silent", "--ignore-scripts", `${name}@${version}`], { cwd: fresh });
    const [made] = [...Deno.readDirSync(fresh)];
    await Deno.rename(`${fresh}/${made!.name}`, path);
  } finally {
    await Deno.remove(fresh, { recursive: true });
  }
  return path;
}

testUnless("programs compile from deno.lock alone, by the commands of their packages", why, async () => {
  using flake = await openFlake({ name: "the stub's own" }, { whole: true });
  const { listing, phases, cache, registry } = await flake.eval<
    { listing: Listed[]; phases: Record<string, string>; cache: string; registry: string }
  >(
    "packages.x86_64-linux",
    `packages: let npm = packages.chainfire.passthru.npm; plain = builtins.unsafeDiscardStringContext; in {
      listing = builtins.fromJSON (plain npm.cache.listing);
      phases = { chainfire = plain packages.chainfire.buildPhase; uc = plain packages.uc.buildPhase; };
      cache = plain "\${npm.cache}";
      inherit (npm) registry;
    }`,
  );
  const waiting = [...listing];
  await Promise.all(Array.from({ length: fetchesAtOnce }, async () => {
    for (let one = waiting.pop(); one !== undefined; one = waiting.pop()) {
      one.tarball = await fetchTarball(one);
      assert.equal(await integrityOf(one.tarball), one.integrity, `${one.name}@${one.version}`);
    }
  }));
  console.log(`    ${listing.length} tarballs of npm have the hashes of deno.lock`);

  const temporary = await Deno.makeTempDir({ prefix: "nix-packaging-" });
  try {
    await Deno.writeTextFile(`${temporary}/listing.json`, JSON.stringify(listing));
    await run("node", [`${flake.dir}/nix/packages/npm-index.mjs`, `${temporary}/listing.json`, `${temporary}/npm`]);
    for (const [name, phase] of Object.entries(phases)) {
      await Deno.mkdir(`${temporary}/${name}`);
      const script = `set -eu\nrunHook() { :; }\n${phase.replaceAll(cache, `${temporary}/npm`)}`;
      await run("bash", ["-c", script], {
        cwd: flake.dir,
        clearEnv: true,
        env: {
          PATH: `${Deno.execPath().slice(0, Deno.execPath().lastIndexOf("/"))}:/usr/bin:/bin`,
          TMPDIR: `${temporary}/${name}`,
          NPM_CONFIG_REGISTRY: registry,
          DENORT_BIN: await Deno.realPath(Deno.execPath()),
          DENO_NO_UPDATE_CHECK: "1",
          NO_COLOR: "1",
        },
      });
      const { size } = await Deno.stat(`${flake.dir}/${name}`);
      assert.ok(size > (await Deno.stat(await Deno.realPath(Deno.execPath()))).size, `${name} holds no code`);
      console.log(`    ${name}: ${Math.round(size / 2 ** 20)} MiB with the stand-in`);
      await Deno.remove(`${flake.dir}/${name}`, { recursive: true });
    }
  } finally {
    await Deno.remove(temporary, { recursive: true });
  }
});
