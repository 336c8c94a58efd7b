import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, type StoredRecord } from "@ultracloud/platform";
import {
  CreateFlavorRequestSchema,
  DeleteFlavorRequestSchema,
  DeleteFlavorResponseSchema,
  type Flavor as FlavorMessage,
  FlavorSchema,
  FlavorService,
  UpdateFlavorRequestSchema,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { builtinFlavor, builtinFlavors, checkFlavor } from "./domain/flavors.ts";
import type { StoredFlavor } from "./domain/types.ts";
import { flavorKind } from "./kinds.ts";
import { flavorOf } from "./names.ts";
import { toFlavor } from "./wire.ts";

/** More would make every list long and no choice better. */
const flavorsMax = 500;

/** Sizes of VMs. They belong to no project: administrators of the platform change them, everybody reads them. */
export function flavorService(platform: Platform): BoundService {
  const view = (record: StoredRecord<StoredFlavor>) => toFlavor({ name: record.name, ...record.value, builtin: false });

  function checked(flavor: FlavorMessage | undefined): { name: string; value: StoredFlavor } {
    if (!flavor) throw invalidField("flavor", "Cannot keep a flavor that is not given");
    const name = checkName(flavor.name, "flavor.name");
    if (builtinFlavor(name)) {
      throw fault("failed_precondition", "flavor_builtin", `Cannot change flavor ${name} as the platform brings it`, {
        field: "flavor.name",
      });
    }
    const { vcpus, memoryBytes, diskBytes, description } = flavor;
    const sizes = { vcpus, memoryBytes: Number(memoryBytes), diskBytes: Number(diskBytes), description };
    return { name, value: checkFlavor(sizes) };
  }

  return bind(FlavorService, {
    getFlavor: async (request) =>
      toFlavor(await platform.transact((tx) => flavorOf(tx, platform, request.name.slice(0, 80)))),
    async listFlavors() {
      const stored = await platform.list(flavorKind, "");
      return { flavors: [...builtinFlavors.map(toFlavor), ...stored.map(view)] };
    },
    createFlavor: (request, context) =>
      platform.transact(async (tx) => {
        const { name, value } = checked(request.flavor);
        if ((await tx.list(flavorKind, "")).length >= flavorsMax) {
          throw fault("resource_exhausted", "too_many_flavors", `Cannot keep more than ${flavorsMax} flavors`);
        }
        return view(await tx.create(flavorKind, { project: "", name, value }));
      }, { idempotency: idempotencyOf(context, CreateFlavorRequestSchema, request, FlavorSchema) }),
    updateFlavor: (request, context) =>
      platform.transact(async (tx) => {
        const { name, value } = checked(request.flavor);
        return view(tx.update(flavorKind, await tx.get(flavorKind, "", name), { value }));
      }, { idempotency: idempotencyOf(context, UpdateFlavorRequestSchema, request, FlavorSchema) }),
    deleteFlavor: (request, context) =>
      platform.transact(async (tx) => {
        const name = checkName(request.name, "name");
        if (builtinFlavor(name)) {
          throw fault(
            "failed_precondition",
            "flavor_builtin",
            `Cannot delete flavor ${name} as the platform brings it`,
            {
              field: "name",
            },
          );
        }
        tx.remove(flavorKind, await tx.get(flavorKind, "", name));
        return {};
      }, { idempotency: idempotencyOf(context, DeleteFlavorRequestSchema, request, DeleteFlavorResponseSchema) }),
  }, {
    getFlavor: { resource: "flavor", action: "get", scope: (r) => projectScope(r.project) },
    listFlavors: { resource: "flavor", action: "list", scope: (r) => projectScope(r.project) },
    createFlavor: { resource: "flavor", action: "create", scope: () => "" },
    updateFlavor: { resource: "flavor", action: "update", scope: () => "" },
    deleteFlavor: { resource: "flavor", action: "delete", scope: () => "" },
  });
}
