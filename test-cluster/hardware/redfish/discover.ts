import { fault } from "@ultracloud/base";
import { isResource, linkOf, linksOf, partOf, type Redfish, type Resource, textOf, textsOf } from "./client.ts";

/** A drive that the BMC can fill with an image of its own choosing. */
export interface MediaSlot {
  readonly path: string;
  readonly insertPath: string;
  /** Absent where only the collection of newer BMCs would tell: then the slot is emptied by a PATCH. */
  readonly ejectPath: string | undefined;
  readonly transferMethods: readonly string[];
  readonly transferProtocols: readonly string[];
}

/** What was found of one machine behind a BMC: nothing here is assumed, every path was read. */
export interface DiscoveredSystem {
  readonly path: string;
  readonly manufacturer: string;
  readonly model: string;
  readonly serial: string;
  readonly managerPaths: readonly string[];
  /** Drives for CDs, those of the system before those of its managers. */
  readonly slots: readonly MediaSlot[];
}

/** A chassis of blades has tens of systems behind one BMC, and a manager few drives. */
const membersMax = 64;

/**
 * Finds the system and its drives. `id` chooses one where a BMC has several. Faults: `bmc_system_unknown`,
 * `bmc_system_ambiguous` (invalid_argument), `bmc_no_media` (failed_precondition).
 */
export async function discover(redfish: Redfish, id?: string): Promise<DiscoveredSystem> {
  const path = await chooseSystem(redfish, id);
  const system = await redfish.get(path);
  const managed = linksOf(partOf(system, "Links"), "ManagedBy");
  const managerPaths = managed.length > 0 ? managed : await members(redfish, linkOf(redfish.root, "Managers"));
  // Newer BMCs have the drives at the system, older ones at the manager; where both have some, the system's work.
  const collections = [linkOf(system, "VirtualMedia")];
  for (const manager of managerPaths) collections.push(linkOf(await redfish.get(manager), "VirtualMedia"));
  const slots: MediaSlot[] = [];
  for (const collection of new Set(collections)) {
    for (const member of await members(redfish, collection)) {
      const slot = slotOf(member, await redfish.get(member));
      if (slot !== undefined) slots.push(slot);
    }
  }
  if (slots.length === 0) {
    throw fault(
      "failed_precondition",
      "bmc_no_media",
      `Cannot find a drive for CDs behind ${path}: wanted VirtualMedia with an InsertMedia action (is it licensed?)`,
    );
  }
  return {
    path,
    manufacturer: textOf(system, "Manufacturer") ?? "",
    model: textOf(system, "Model") ?? "",
    serial: textOf(system, "SerialNumber") ?? "",
    managerPaths,
    slots,
  };
}

async function chooseSystem(redfish: Redfish, id: string | undefined): Promise<string> {
  const systems = await members(redfish, linkOf(redfish.root, "Systems"));
  const idOf = (path: string) => path.replace(/\/$/, "").split("/").at(-1)!;
  if (id !== undefined) {
    const found = systems.find((path) => idOf(path) === id || path === id);
    if (found !== undefined) return found;
    const known = systems.map(idOf).join(", ") || "none";
    throw fault("invalid_argument", "bmc_system_unknown", `Cannot find the system ${id}: the BMC has ${known}`);
  }
  const [only, ...others] = systems;
  if (only === undefined) throw fault("failed_precondition", "bmc_no_system", "Cannot find a system behind this BMC");
  if (others.length === 0) return only;
  throw fault(
    "invalid_argument",
    "bmc_system_ambiguous",
    `Cannot tell which system is meant: wanted one of ${systems.map(idOf).join(", ")}`,
  );
}

/** Paths of a collection's members, further pages included. */
export async function members(redfish: Redfish, collection: string | undefined): Promise<string[]> {
  const found: string[] = [];
  for (let page = collection; page !== undefined && found.length < membersMax;) {
    const resource = await redfish.get(page);
    found.push(...linksOf(resource, "Members"));
    page = textOf(resource, "Members@odata.nextLink") ?? textOf(resource, "@odata.nextLink");
  }
  return [...new Set(found)].slice(0, membersMax);
}

function slotOf(path: string, media: Resource): MediaSlot | undefined {
  const types = textsOf(media, "MediaTypes");
  if (!types.some((type) => type === "CD" || type === "DVD")) return undefined;
  const actions = partOf(media, "Actions");
  const insert = partOf(actions, "#VirtualMedia.InsertMedia");
  const insertPath = textOf(insert, "target");
  if (insertPath === undefined) return undefined;
  return {
    path,
    insertPath,
    ejectPath: textOf(partOf(actions, "#VirtualMedia.EjectMedia"), "target"),
    transferMethods: textsOf(insert, "TransferMethod@Redfish.AllowableValues"),
    transferProtocols: textsOf(insert, "TransferProtocolType@Redfish.AllowableValues"),
  };
}

/** What an action's parameter may be: written at the action, or in the document it refers to. */
export async function allowableValues(redfish: Redfish, action: Resource, parameter: string): Promise<string[]> {
  const inline = textsOf(action, `${parameter}@Redfish.AllowableValues`);
  const info = textOf(action, "@Redfish.ActionInfo");
  if (inline.length > 0 || info === undefined) return inline;
  const parameters = (await redfish.get(info))["Parameters"];
  if (!Array.isArray(parameters)) return [];
  const found = parameters.filter(isResource).find((entry) => textOf(entry, "Name") === parameter);
  return found === undefined ? [] : textsOf(found, "AllowableValues");
}
