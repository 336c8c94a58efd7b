/** SQLite's authorizer actions (sqlite3.h). */
export const actions = {
  createIndex: 1,
  createTable: 2,
  createTrigger: 7,
  createView: 8,
  delete: 9,
  dropIndex: 10,
  dropTable: 11,
  dropTrigger: 16,
  dropView: 17,
  insert: 18,
  pragma: 19,
  read: 20,
  select: 21,
  update: 23,
  alterTable: 26,
  reindex: 27,
  function: 31,
  recursive: 33,
} as const;

/** Tables of the store itself. */
export const reservedPrefix = "_uc_";

/** Called after the last row of a query; callers cannot name it. */
export const completionFunction = "_uc_done";

/** What a statement may do: `read` changes nothing. */
export type SqlMode = "read" | "write";

/** Pragmas that only describe the schema, and take a name. */
const pragmas: ReadonlySet<string> = new Set([
  "table_info",
  "table_xinfo",
  "index_list",
  "index_info",
  "index_xinfo",
  "foreign_key_list",
]);

/** Functions whose result depends on nothing but their arguments and the frozen inputs of the entry. */
const functions: ReadonlySet<string> = new Set(
  [
    // Scalar; changes() and last_insert_rowid() start from nothing in every entry.
    "abs changes char coalesce concat concat_ws format glob hex if ifnull iif instr last_insert_rowid length like",
    "likelihood likely lower ltrim max min nullif octet_length printf quote raise replace round rtrim sign soundex",
    "substr substring trim typeof unhex unicode unistr unistr_quote unlikely upper zeroblob",
    // Frozen per entry.
    "random randomblob date time datetime julianday unixepoch strftime timediff",
    "current_date current_time current_timestamp",
    // Aggregates and windows.
    "avg count group_concat string_agg sum total median percentile percentile_cont percentile_disc",
    "cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number",
    // Mathematics: the same binary everywhere, so the same library.
    "acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow",
    "power radians sin sinh sqrt tan tanh trunc",
    // JSON.
    "-> ->> json json_array json_array_insert json_array_length json_error_position json_extract json_group_array",
    "json_group_object json_insert json_object json_patch json_pretty json_quote json_remove json_replace json_set",
    "json_type json_valid jsonb jsonb_array jsonb_array_insert jsonb_each jsonb_extract jsonb_group_array",
    "jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set jsonb_tree",
  ].flatMap((line) => line.split(" ")),
);

/** True for functions that statements may call. */
export function isAllowedFunction(name: string): boolean {
  return functions.has(name.toLowerCase());
}

/** Virtual tables that read only their arguments. */
const tableFunctions: ReadonlySet<string> = new Set(["json_each", "json_tree", "jsonb_each", "jsonb_tree"]);

const schemaTables: ReadonlySet<string> = new Set([
  "sqlite_master",
  "sqlite_schema",
  "sqlite_temp_master",
  "sqlite_temp_schema",
]);

const schemaActions: ReadonlySet<number> = new Set<number>([
  actions.createIndex,
  actions.createTable,
  actions.createTrigger,
  actions.createView,
  actions.dropIndex,
  actions.dropTable,
  actions.dropTrigger,
  actions.dropView,
  actions.alterTable,
  actions.reindex,
]);

export interface SqlAction {
  readonly action: number;
  readonly arg1: string | null;
  readonly arg2: string | null;
  readonly database: string | null;
  readonly source: string | null;
}

export interface SqlContext {
  readonly mode: SqlMode;
  /** CREATE, DROP or ALTER: SQLite itself then reads and writes its schema tables. */
  readonly schema: boolean;
  /** Common table expressions known to end, lower case. */
  readonly bounded: ReadonlyMap<string, number>;
}

function reserved(name: string | null): boolean {
  return name !== null && name.toLowerCase().startsWith(reservedPrefix);
}

/** Why the action is refused; undefined when it is allowed. Everything not named here is refused. */
export function refusal(asked: SqlAction, context: SqlContext): string | undefined {
  const { action, arg1, arg2, database, source } = asked;
  const table = arg1?.toLowerCase() ?? "";
  if (action === actions.function && arg2 === completionFunction) return undefined;
  if (reserved(arg1) || reserved(arg2) || reserved(source)) {
    return `names that start with ${reservedPrefix} are reserved`;
  }
  // ALTER TABLE looks for views and triggers to change among the temporary ones too.
  const temporarySchema = context.schema && /^sqlite_temp_(master|schema)$/.test(table);
  // ALTER TABLE names its database first and a column where others have the database.
  const schemaName = action === actions.alterTable ? arg1 : database;
  if (schemaName !== null && schemaName !== "main" && !temporarySchema) return "only the database itself can be used";
  switch (action) {
    case actions.select:
      return undefined;
    case actions.read:
      if (schemaTables.has(table)) return context.schema ? undefined : "the schema is answered by ListTables";
      if (table === "sqlite_sequence" || tableFunctions.has(table)) return undefined;
      return /^(sqlite_|pragma_|dbstat$|bytecode$|tables_used$)/.test(table) ? `${arg1} cannot be read` : undefined;
    case actions.function:
      if (arg2 !== null && functions.has(arg2.toLowerCase())) return undefined;
      // What ALTER TABLE calls on the schema.
      if (context.schema && arg2 !== null && /^sqlite_(rename|drop|add|find|fail)/.test(arg2)) return undefined;
      return `the function ${arg2} is not known to give the same result on every replica`;
    case actions.pragma:
      if (!pragmas.has(table)) return `the pragma ${arg1} is not allowed`;
      return arg2 === null ? "a pragma needs a table or an index" : undefined;
    case actions.recursive:
      return source !== null && context.bounded.has(source.toLowerCase())
        ? undefined
        : "a recursive query must name its bound: wanted LIMIT <number> at the end of its body";
    case actions.insert:
    case actions.update:
    case actions.delete:
      if (context.mode === "read") return "the statement changes data: wanted Execute";
      if (schemaTables.has(table) && context.schema) return undefined;
      return /^sqlite_(?!sequence$)/.test(table) ? `${arg1} cannot be changed` : undefined;
    default:
      if (!schemaActions.has(action)) return "the statement is not allowed";
      return context.mode === "read" ? "the statement changes the schema: wanted Execute" : undefined;
  }
}
