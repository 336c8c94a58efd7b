import assert from "node:assert/strict";
import { openNixBox, testUnless, workspaceRoot } from "@ultracloud/testing";
import { askOnce, whyNoNix } from "./_flake.ts";

/** The disk layouts under disko's own types, where checkouts of disko and of nixpkgs' lib are given. */

const library = Deno.env.get("UC_NIXPKGS_LIB");
const disko = Deno.env.get("UC_DISKO");
const why = whyNoNix ??
  (library === undefined || disko === undefined
    ? "UC_NIXPKGS_LIB and UC_DISKO name no checkouts of nixpkgs.lib and disko"
    : undefined);

interface Disks {
  readonly [system: string]: {
    readonly device: string;
    readonly fileSystems: Record<string, { device: string; fsType: string }>;
  };
}
const disksOf = askOnce<Disks>(
  "nixosConfigurations",
  `systems: builtins.listToAttrs (builtins.concatLists (builtins.attrValues (builtins.mapAttrs (name: system:
    if !(system.config ? disko) then [ ] else [ { inherit name; value = {
      inherit (system.config.disko.devices.disk.root) device;
      fileSystems = builtins.mapAttrs (_: it: { inherit (it) device fsType; }) system.config.fileSystems;
    }; } ]) systems)))`,
);

testUnless("disko takes the layout of every installed system, and mounts what the system expects", why, async () => {
  const box = await openNixBox();
  if (typeof box === "string") throw new Error(box);
  const systems = await disksOf({ name: "the stub's own" });
  assert.equal(Object.keys(systems).length, 6);
  for (const [name, { device, fileSystems }] of Object.entries(systems)) {
    const expression = `
      let
        lib = import ${library}/lib;
        types = import ${disko}/lib { inherit lib; makeTest = null; eval-config = null; qemu-common = null; };
        layout = import ${workspaceRoot}/nix/disks/single.nix { disk = "${device}"; };
        it = (lib.evalModules { modules = [ { options.disko.devices = lib.mkOption { type = types.toplevel; }; } layout ]; }).config.disko.devices;
      in { destroy = it._destroy; create = it._create; mount = it._mount; }`;
    const answer = await box.nix("eval", "--impure", "--json", "--expr", expression);
    const { destroy, create, mount } = JSON.parse(answer) as Record<"destroy" | "create" | "mount", string>;
    for (const script of [destroy, create]) assert.ok(script.includes(device), `${name}: ${device} is not touched`);
    for (const [mountpoint, { device: part, fsType }] of Object.entries(fileSystems)) {
      assert.ok(create.includes(part), `${name}: ${part} is not made`);
      assert.match(mount, new RegExp(`${part}[^]*-t "${fsType}"|-t "${fsType}"[^]*${part}`), `${name}: ${mountpoint}`);
    }
  }
});
