import assert from "node:assert/strict";
import { loadFleet } from "@ultracloud/launch";
import { testUnless, workspaceRoot } from "@ultracloud/testing";
import { openFlake, parseAll, testWithLibraries, whyNoNix } from "./_flake.ts";

/** What the flake offers: the published names, and every component of the workspace. */

const system = "x86_64-linux";
const configurations = [
  "baremetal-qemu-control-plane",
  "baremetal-qemu-worker",
  "netboot-all-in-one",
  "netboot-control-plane",
  "node01",
  "node02",
  "node03",
  "single-node-quickstart",
  "ultracloud-iso",
];
const checks = [
  "baremetal-iso-e2e",
  "canonical-profile-build-guards",
  "canonical-profile-eval-guards",
  "deployer-bootstrap-e2e",
  "deployer-vm-rollback",
  "deployer-vm-smoke",
  "fleet-scheduler-e2e",
  "host-lifecycle-e2e",
  "portable-control-plane-regressions",
  "supported-surface-guard",
];
/** Helpers that were archived and must not come back. */
const archived =
  /netboot-worker|netboot-base|pxe-server|vm-smoke-target|firecracker|mvisor|k8shost-(cni|csi|controllers)|lightningstor-csi/i;

interface Shown {
  readonly type?: string;
  readonly [name: string]: Shown | string | undefined;
}

testUnless("every Nix file parses", whyNoNix, async () => {
  const files = await parseAll();
  assert.ok(files.length > 30, `only ${files.length} files were found`);
});

testWithLibraries("the flake has every output of the contract, and a package of each component", async (library) => {
  using flake = await openFlake(library, { whole: true });
  const shown = JSON.parse(await flake.flake("show", "--json")) as Record<string, Shown>;
  const names = (output: string) => Object.keys((shown[output]?.[system] ?? {}) as Shown).sort();
  const components = [...(await loadFleet(workspaceRoot)).keys()];
  assert.deepEqual(
    names("packages"),
    [
      ...components,
      "single-node-quickstart",
      "single-node-trial-vm",
      "uc",
      "ultracloud-iso",
    ].sort(),
  );
  assert.deepEqual(names("apps"), ["all-in-one-quickstart", "single-node-quickstart", "single-node-trial"]);
  assert.deepEqual(names("checks"), checks);
  assert.deepEqual(names("devShells"), ["default"]);
  assert.deepEqual(Object.keys(shown.nixosConfigurations!).sort(), configurations);
  assert.deepEqual(Object.keys(shown.nixosModules!), ["default"]);
  assert.ok(!archived.test(Object.keys(shown).flatMap(names).concat(configurations).join(" ")));
});

testWithLibraries("nix flake check takes every output for what it should be", async (library) => {
  using flake = await openFlake(library);
  await flake.flake("check", "--no-build");
});

testWithLibraries("every system evaluates down to its derivation, and says what it is", async (library) => {
  using flake = await openFlake(library);
  const systems = await flake.eval<Record<string, { toplevel: string; hostname: string; node: string | null }>>(
    "nixosConfigurations",
    `builtins.mapAttrs (_: system: {
      toplevel = builtins.unsafeDiscardStringContext system.config.system.build.toplevel.drvPath;
      hostname = system.config.networking.hostName;
      inherit (system.config.ultracloud) node;
    })`,
  );
  assert.deepEqual(Object.keys(systems).sort(), configurations);
  const drvPaths = Object.values(systems).map(({ toplevel }) => toplevel);
  assert.equal(new Set(drvPaths).size, configurations.length, "two systems are the same");
  for (const path of drvPaths) assert.match(path, /^\/nix\/store\/[a-z0-9]{32}-nixos-system-.*\.drv$/);
  assert.equal(systems["single-node-quickstart"]!.hostname, "ultracloud");
  const counting = await flake.eval<unknown>(
    "nixosConfigurations.node01.config.boot.loader.systemd-boot",
    "loader: { inherit (loader) enable bootCounting; }",
  );
  assert.deepEqual(counting, { enable: true, bootCounting: { enable: true, tries: 2 } });
  for (const name of ["node01", "node02", "node03"]) assert.equal(systems[name]!.node, name);
});

testWithLibraries(
  "canonical-profile-eval-guards is built in Nix's sandbox, and names every system",
  async (library) => {
    using flake = await openFlake(library);
    const text = await flake.buildText(`checks.${system}.canonical-profile-eval-guards`);
    const guarded = JSON.parse(text) as Record<string, string>;
    assert.deepEqual(Object.keys(guarded).sort(), [...configurations, "single-node-trial-vm"].sort());
    for (const path of Object.values(guarded)) assert.match(path, /^\/nix\/store\/[a-z0-9]{32}-.*\.drv$/);
  },
);

testUnless("both locks are whole: nothing has to be looked up, and each input has its hash", whyNoNix, async () => {
  const lock = async (path: string) => JSON.parse(await Deno.readTextFile(`${workspaceRoot}/${path}`));
  const [own, nested] = [await lock("flake.lock"), await lock("nix/test-cluster/flake.lock")];
  for (const input of ["nixpkgs", "disko"]) {
    const { narHash, rev } = own.nodes[input].locked;
    assert.match(narHash, /^sha256-[A-Za-z0-9+/]{43}=$/);
    assert.match(rev, /^[0-9a-f]{40}$/);
    assert.deepEqual(nested.nodes[input].locked, own.nodes[input].locked, `${input} of the nested flake`);
  }
  // Nix itself finds nothing to add.
  using flake = await openFlake({ name: "none", locked: true });
  await flake.flake("metadata", "--no-update-lock-file");
  using inner = await openFlake({ name: "none", locked: true }, { subdirectory: "nix/test-cluster" });
  await inner.flake("metadata", "--no-update-lock-file");
});

testWithLibraries(
  "the trial's three names start the same program, which has an exit code to trust",
  async (library) => {
    using flake = await openFlake(library);
    const apps = await flake.eval<Record<string, { type: string; program: string }>>(
      `apps.${system}`,
      "builtins.mapAttrs (_: app: { inherit (app) type; program = builtins.unsafeDiscardStringContext app.program; })",
    );
    assert.deepEqual([...new Set(Object.values(apps).map(({ program }) => program))].length, 1);
    for (const app of Object.values(apps)) {
      assert.deepEqual([app.type, /single-node-quickstart$/.test(app.program)], [
        "app",
        true,
      ]);
    }
  },
);

testWithLibraries("a nixpkgs whose deno has no denort is refused with what to do about it", async (library) => {
  using flake = await openFlake(library);
  await flake.edit("nix/stub/packages.nix", (text) => text.replace(/ passthru\.denort = [^;]+;/, ""));
  await assert.rejects(
    flake.eval(`packages.${system}.chainfire.drvPath`, "path: path"),
    /Cannot compile chainfire: this nixpkgs has deno 2\.9\.6 without its output `denort`[^]*override-input/,
  );
});

testWithLibraries("the nested flake offers the lanes and the hardware smoke test", async (library) => {
  using flake = await openFlake(library, { subdirectory: "nix/test-cluster" });
  const apps = await flake.eval<Record<string, string>>(
    `apps.${system}`,
    "builtins.mapAttrs (_: app: builtins.unsafeDiscardStringContext app.program)",
  );
  assert.deepEqual(Object.keys(apps).sort(), ["cluster", "hardware-smoke"]);
  for (const [name, program] of Object.entries(apps)) assert.match(program, new RegExp(`/bin/${name}$`));
});
