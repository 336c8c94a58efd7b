import { desiredSystemSchema, installPlanSchema } from "@ultracloud/cluster-state";
import { componentSchema } from "@ultracloud/base";
import { clusterFileSchema, loadFleet } from "@ultracloud/launch";
import { z } from "zod";
import { type Command, parseFlags } from "./_command.ts";
import { type Fleet, formatFleet, judgeFleet } from "./_fleet_table.ts";
import { checkGolden } from "./_golden.ts";
import { green, red } from "./_term.ts";

const tableFile = "docs/reference/permissions.txt";
const manifestSchemaFile = "docs/reference/component.schema.json";
const clusterSchemaFile = "docs/reference/cluster.schema.json";
/** What a node's plan and system are once class and node are laid over each other. */
const nodeSchemaFile = "docs/reference/cluster-node.schema.json";

const nodePartsSchema = z.strictObject({
  install_plan: installPlanSchema.optional(),
  desired_system: desiredSystemSchema.optional(),
});

/** JSON schema of what a file may hold, as text ready for a golden file. */
function schemaText(schema: z.ZodType, title: string): string {
  const json = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
  return JSON.stringify({ title, ...json }, null, 2) + "\n";
}

/** The zod schema a component exports from its config.ts; a sentence when there is none. */
async function configSchemaOf(fleet: Fleet, name: string): Promise<z.ZodType | string> {
  const dir = fleet.get(name)?.dir;
  let module: Record<string, unknown>;
  try {
    module = await import(new URL(`file://${dir}/config.ts`).href);
  } catch (error) {
    return `Cannot load config.ts of ${name}: ${error instanceof Error ? error.message : error}`;
  }
  const schema = module["configSchema"];
  if (schema instanceof z.ZodType) return schema;
  return `Cannot document ${name}: wanted config.ts to export its zod schema as configSchema`;
}

/** Golden files that follow from the manifests and configuration schemas. */
async function goldenFiles(fleet: Fleet): Promise<{ files: Map<string, string>; wrong: string[] }> {
  const files = new Map([
    [tableFile, formatFleet(fleet)],
    [manifestSchemaFile, schemaText(componentSchema, "component.json")],
    [clusterSchemaFile, schemaText(clusterFileSchema, "A cluster")],
    [nodeSchemaFile, schemaText(nodePartsSchema, "How a node is installed, and what it should become")],
  ]);
  const wrong: string[] = [];
  for (const name of fleet.keys()) {
    const schema = await configSchemaOf(fleet, name);
    if (typeof schema === "string") wrong.push(schema);
    else files.set(`docs/reference/config/${name}.schema.json`, schemaText(schema, `Configuration of ${name}`));
  }
  return { files, wrong };
}

/** Holds the manifests against each other and writes what follows from them. */
export const permissionsCommand: Command = {
  name: "permissions",
  help: `deno task permissions [--update]

Reads every component.json: callees exist, ports are unique, no shell and no unscoped grant. Compares the derived
flags with ${tableFile}, and the JSON schemas of manifests and configurations with docs/reference.

  --update   rewrite the golden files; violations still fail`,
  async run(args, root) {
    const { values } = parseFlags({ args: [...args], options: { update: { type: "boolean", default: false } } });
    const fleet = await loadFleet(root);
    const { files, wrong } = await goldenFiles(fleet);
    wrong.push(...judgeFleet(fleet));
    for (const sentence of wrong) console.log(`${red("violation")} ${sentence}`);
    let staleCount = 0;
    for (const [path, text] of files) {
      const stale = await checkGolden(root, path, text, {
        update: values.update === true,
        updateCommand: "deno task permissions --update",
      });
      if (!stale) continue;
      staleCount++;
      console.log(`${red("stale")} ${stale}`);
    }
    if (wrong.length > 0 || staleCount > 0) return 1;
    console.log(`${green("ok")} ${fleet.size} components ask for what docs/reference says`);
    return 0;
  },
};
