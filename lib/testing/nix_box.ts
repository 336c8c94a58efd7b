import { workspaceRoot } from "./stack.ts";

/** A modern Nix from the distribution's newer suite, and a busybox that needs nothing, for builders in the sandbox. */
const suite = "trixie";
const packages = ["nix-bin", "busybox-static"];
/** What Nix does not need at run time, though its packages name it. */
const leftOut =
  /^(perl|libperl|lib.*-perl|passwd|login|base-passwd|debconf|libpam|libdebconf|debianutils|libdb5|libsemanage)/;
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

export interface SystemSource {
  readonly name: string;
  /** Scripts of `bin/`, by name; `switch-to-configuration` is made when it is not among them. */
  readonly bin?: Readonly<Record<string, string>>;
  /** Goes into a path of its own that the system refers to, so that the closure has more than one. */
  readonly library?: string;
}

/** A real Nix in a folder of the project. Nothing of it is installed on the host. */
export interface NixBox {
  /** Holds `nix` and `nix-env`; put it in front of the PATH of whoever shall use them. */
  readonly binDir: string;
  /** Runs `nix` and answers what it says; throws what it complains about. */
  nix(...args: string[]): Promise<string>;
  /** The same for `nix-instantiate`, which parses files without evaluating them. */
  instantiate(...args: string[]): Promise<string>;
  /** A store of its own with what was built in it; removed by its owner. */
  workshop(dir: string): Promise<Workshop>;
}

/** Builds closures, in Nix's sandbox and without nixpkgs, and signs them into binary caches. */
export interface Workshop {
  /** What signatures of `publish` are trusted by. */
  readonly publicKey: string;
  build(source: SystemSource): Promise<string>;
  /** Copies the closure into the directory of a cache; unsigned when asked. */
  publish(system: string, cacheDir: string, o?: { readonly unsigned?: boolean }): Promise<void>;
}

let opened: Promise<NixBox | string> | undefined;

/** The box, made once and kept in the cache below the work root; or why there is none, for `testUnless`. */
export function openNixBox(): Promise<NixBox | string> {
  return opened ??= open().catch((error) => `no Nix: ${error instanceof Error ? error.message : error}`);
}

async function open(): Promise<NixBox | string> {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0) return "a build in Nix's sandbox needs root on Linux";
  const work = Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${workspaceRoot}/work`;
  const dir = `${work}/cache/nix-box-${suite}`;
  if (!await exists(`${dir}/bin/nix-env`)) {
    await Deno.mkdir(`${work}/cache`, { recursive: true });
    const fresh = await Deno.makeTempDir({ dir: `${work}/cache`, prefix: "nix-box-" });
    try {
      await unpack(fresh);
      await wrap(fresh, dir);
      await Deno.rename(fresh, dir).catch(async (error) => {
        // Another test was first.
        if (!await exists(`${dir}/bin/nix-env`)) throw error;
      });
    } finally {
      await Deno.remove(fresh, { recursive: true }).catch(() => {});
    }
  }
  return boxAt(dir);
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

async function run(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const output = await new Deno.Command(program, { args: [...args], env, stdin: "null" }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (output.success) return text(output.stdout);
  throw new Error(`Cannot run ${program} ${args.join(" ").slice(0, 120)}: ${text(output.stderr).trim().slice(-600)}`);
}

/** Where the host's own package manager fetches from. */
async function mirror(): Promise<string> {
  const files = ["/etc/apt/sources.list"];
  for await (const { name } of Deno.readDir("/etc/apt/sources.list.d")) files.push(`/etc/apt/sources.list.d/${name}`);
  for (const file of files) {
    const text = await Deno.readTextFile(file).catch(() => "");
    const found = /^URIs:\s*(\S+\/debian)\/?\s*$/m.exec(text) ??
      /^deb\s+(?:\[[^\]]*\]\s+)?(\S+\/debian)\/?\s/m.exec(text);
    if (found) return found[1]!;
  }
  throw new Error("the host's package manager names no Debian mirror");
}

/** Fetches the packages with an apt of its own state, which checks their signatures, and unpacks them. */
async function unpack(dir: string): Promise<void> {
  const apt = `${dir}/apt`;
  for (const name of ["state/lists/partial", "cache/archives/partial", "parts"]) {
    await Deno.mkdir(`${apt}/${name}`, { recursive: true });
  }
  await Deno.writeTextFile(`${apt}/status`, "");
  await Deno.writeTextFile(`${apt}/sources.list`, `deb [signed-by=${keyring}] ${await mirror()} ${suite} main\n`);
  const settings = {
    "Dir::Etc::sourcelist": `${apt}/sources.list`,
    "Dir::Etc::sourceparts": `${apt}/parts`,
    "Dir::Etc::main": "/dev/null",
    "Dir::Etc::parts": `${apt}/parts`,
    "Dir::Etc::preferencesparts": `${apt}/parts`,
    "Dir::State": `${apt}/state`,
    "Dir::State::status": `${apt}/status`,
    "Dir::Cache": `${apt}/cache`,
    "APT::Install-Recommends": "false",
    "APT::Sandbox::User": "root",
    "APT::Architecture": "amd64",
    "Acquire::Languages": "none",
  };
  const text = Object.entries(settings).map(([name, value]) => `${name} "${value}";\n`).join("");
  await Deno.writeTextFile(`${apt}/apt.conf`, text);
  const env = { APT_CONFIG: `${apt}/apt.conf`, DEBIAN_FRONTEND: "noninteractive" };
  await run("apt-get", ["update", "-q"], env);
  await run("apt-get", ["install", "-q", "-y", "--download-only", ...packages], env);
  await Deno.mkdir(`${dir}/root`);
  for await (const { name } of Deno.readDir(`${apt}/cache/archives`)) {
    if (!name.endsWith(".deb") || leftOut.test(name)) continue;
    await run("dpkg-deb", ["-x", `${apt}/cache/archives/${name}`, `${dir}/root`]);
  }
  await Deno.remove(apt, { recursive: true });
}

/** Writes what the box is used by; it is made in `dir` and used at `home`. */
async function wrap(dir: string, home: string): Promise<void> {
  const root = `${home}/root`;
  await Deno.mkdir(`${dir}/bin`);
  await Deno.mkdir(`${dir}/etc`);
  await Deno.mkdir(`${dir}/busybox`);
  await Deno.copyFile(`${dir}/root/usr/bin/busybox`, `${dir}/busybox/busybox`);
  await Deno.chmod(`${dir}/busybox/busybox`, 0o755);
  await Deno.writeTextFile(
    `${dir}/etc/nix.conf`,
    [
      "experimental-features = nix-command",
      "substituters =",
      "build-users-group =",
      "sandbox = true",
      "sandbox-fallback = false",
      `sandbox-paths = /bin/sh=${home}/busybox/busybox`,
      "",
    ].join("\n"),
  );
  // Through its own loader: the host's C library is older.
  for (const name of ["nix", "nix-env"]) {
    const command = commandOf(root, name).join(" ");
    await Deno.writeTextFile(
      `${dir}/bin/${name}`,
      `#!/bin/sh\nexport NIX_CONF_DIR="\${NIX_CONF_DIR:-${home}/etc}"\nexec ${command} "$@"\n`,
      { mode: 0o755 },
    );
  }
}

/** Runs a program of Nix through its own loader; all of them are one, which goes by the name it is called by. */
function commandOf(root: string, name: string): string[] {
  const loader = `${root}/usr/lib64/ld-linux-x86-64.so.2`;
  return [loader, "--argv0", name, "--library-path", `${root}/usr/lib/x86_64-linux-gnu`, `${root}/usr/bin/nix`];
}

function boxAt(dir: string): NixBox {
  const binDir = `${dir}/bin`;
  const [loader, ...words] = commandOf(`${dir}/root`, "nix-instantiate");
  const nix = (...args: string[]) => run(`${binDir}/nix`, args, { HOME: `${dir}/home` });
  return {
    binDir,
    nix,
    instantiate: (...args) => run(loader!, [...words, ...args], { HOME: `${dir}/home`, NIX_CONF_DIR: `${dir}/etc` }),
    async workshop(own) {
      await Deno.mkdir(own, { recursive: true });
      const secret = `${own}/secret.key`;
      await Deno.writeTextFile(secret, await nix("key", "generate-secret", "--key-name", "test-cache-1"), {
        mode: 0o600,
      });
      const pair = new Deno.Command(`${binDir}/nix`, {
        args: ["key", "convert-secret-to-public"],
        env: { HOME: `${dir}/home` },
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const writer = pair.stdin.getWriter();
      await writer.write(await Deno.readFile(secret));
      await writer.close();
      const publicKey = new TextDecoder().decode((await pair.output()).stdout).trim();
      const store = `local?root=${own}/store`;
      let count = 0;
      return {
        publicKey,
        async build(source) {
          const expression = `${own}/${++count}.nix`;
          await Deno.writeTextFile(expression, expressionOf(source, dir));
          const args = [
            "--store",
            store,
            "--option",
            "build-hook",
            "",
            "--print-out-paths",
            "--no-link",
            "-f",
            expression,
          ];
          return (await nix("build", ...args)).trim();
        },
        async publish(system, cacheDir, o = {}) {
          const key = o.unsigned === true ? "" : `&secret-key=${secret}`;
          await nix("copy", "--from", store, "--to", `file://${cacheDir}?compression=none${key}`, system);
        },
      };
    },
  };
}

/**
 * What a system does when it is switched to. It finds the root it lies in by its own path, so that several hosts stand
 * side by side in directories.
 */
const switchScript = `#!/bin/sh
here=$(readlink -f "$0"); here=\${here%/bin/switch-to-configuration}
root=\${here%/nix/store/*}
mkdir -p "$root/run" "$root/boot"
echo "$1 \${here##*/}" >> "$root/run/activations"
case "$1" in
  switch) ln -sfn "\${here#"$root"}" "$root/run/current-system"; echo "\${here#"$root"}" > "$root/boot/default" ;;
  boot) echo "\${here#"$root"}" > "$root/boot/default" ;;
  test) ln -sfn "\${here#"$root"}" "$root/run/current-system" ;;
  *) exit 64 ;;
esac
`;

/** A derivation without nixpkgs: its builder is busybox, in a folder, as it goes by the name it is called by. */
function expressionOf({ name, bin = {}, library = "nothing" }: SystemSource, dir: string): string {
  const text = (value: string) => `"${value.replaceAll(/["\\]|\$\{/g, (found) => `\\${found}`)}"`;
  const scripts = { "switch-to-configuration": switchScript, ...bin };
  const attributes = Object.entries(scripts).map(([, script], i) => `script${i} = ${text(script)};`).join(" ");
  const commands = Object.keys(scripts).map((script, i) =>
    `bb printf '%s' "$script${i}" > $out/bin/${script}; bb chmod 755 $out/bin/${script};`
  ).join(" ");
  return `let
  busybox = ${dir}/busybox;
  base = { system = "x86_64-linux"; builder = "\${busybox}/busybox"; };
  run = script: [ "sh" "-euc" ("bb() { \${busybox}/busybox \\"$@\\"; }; " + script) ];
  library = derivation (base // { name = "library"; text = ${
    text(library)
  }; args = run "bb printf '%s' \\"$text\\" > $out"; });
in derivation (base // {
  name = ${text(name)};
  inherit library;
  ${attributes}
  args = run ${text(`bb mkdir -p $out/bin $out/share; bb ln -s $library $out/share/library; ${commands}`)};
})
`;
}

/** What goes wrong at a cache, by path of the request. */
export type CacheFault = (path: string) => "missing" | "truncated" | undefined;

/** An HTTP binary cache over a directory; `fault` may be changed while it runs. */
export interface CacheServer extends AsyncDisposable {
  readonly url: string;
  fault: CacheFault;
}

export function serveCache(dir: string, hostname = "127.0.0.1"): CacheServer {
  const state = { fault: (() => undefined) as CacheFault };
  const server = Deno.serve({ hostname, port: 0, onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    const wrong = state.fault(pathname);
    if (wrong === "missing" || pathname.includes("..")) return new Response(null, { status: 404 });
    try {
      const content = await Deno.readFile(`${dir}${pathname}`);
      return new Response(wrong === "truncated" ? content.slice(0, content.length >> 1) : content);
    } catch {
      return new Response(null, { status: 404 });
    }
  });
  return Object.assign(state, {
    url: `http://${hostname}:${(server.addr as Deno.NetAddr).port}`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  });
}
