/**
 * Where answers may differ from etcd's, and nowhere else: each rule has its section in
 * docs/reference/etcd-differences.md under the same name.
 */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };
type JsonObject = { readonly [name: string]: Json };

export interface Answer {
  readonly status: number;
  readonly body: Json;
}

export interface Exchange {
  readonly path: string;
  readonly request: Json;
  readonly etcd: Answer;
  readonly chainfire: Answer;
}

export interface Rule {
  readonly name: string;
  /** Makes what may differ equal; anything else stays as it is. */
  apply(answer: Answer, exchange: Exchange): Answer;
}

const isObject = (value: Json | undefined): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The value with every object in it replaced by `change` of it, innermost first. */
function deep(value: Json, change: (object: JsonObject) => JsonObject): Json {
  if (Array.isArray(value)) return value.map((item: Json) => deep(item, change));
  if (!isObject(value)) return value;
  return change(Object.fromEntries(Object.entries(value).map(([name, item]) => [name, deep(item, change)])));
}

/** Ids of cluster and member, and terms, are each server's own. */
const headerIds: Rule = {
  name: "header-ids",
  apply: ({ status, body }) => ({
    status,
    body: deep(body, (object) => {
      const { cluster_id, member_id, raft_term, ...rest } = object;
      return cluster_id === undefined || member_id === undefined || raft_term === undefined ? object : rest;
    }),
  }),
};

/** Leases and the keys of a lease come in no order from etcd. */
const leaseOrder: Rule = {
  name: "lease-order",
  apply({ status, body }, { path }) {
    if (!/\/(leases|timetolive)$/.test(path) || !isObject(body)) return { status, body };
    const sorted = (list: Json | undefined) =>
      Array.isArray(list) ? [...list].sort((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1) : undefined;
    const leases = sorted(body.leases);
    const keys = sorted(body.keys);
    return { status, body: { ...body, ...(leases ? { leases } : {}), ...(keys ? { keys } : {}) } };
  },
};

/** How much is left of a lease is measured at another moment. */
const remainingTtl: Rule = {
  name: "remaining-ttl",
  apply({ status, body }, { path, etcd, chainfire }) {
    if (!path.endsWith("/timetolive") || !isObject(body)) return { status, body };
    const left = [etcd, chainfire].map((a) => Number(isObject(a.body) ? a.body.TTL : NaN));
    // The run itself takes time: half a minute between the two is more than it may ever be.
    if (left.some((ttl) => !(ttl > 0)) || Math.abs(left[0]! - left[1]!) > 30) return { status, body };
    return { status, body: { ...body, TTL: "some" } };
  },
};

/** Words about a body that is no JSON of the contract. */
const unreadableText: Rule = {
  name: "unreadable-text",
  apply({ status, body }, { etcd, chainfire }) {
    const words = (answer: Answer) => isObject(answer.body) ? String(answer.body.message) : "";
    const own = /^(etcdserver|mvcc|auth|election):/;
    const free = [etcd, chainfire].every((a) =>
      a.status === 400 && isObject(a.body) && a.body.code === 3 && words(a) !== "" && !own.test(words(a))
    );
    return free ? { status, body: { code: 3 } } : { status, body };
  },
};

const sortFields: Readonly<Record<string, string>> = {
  VERSION: "version",
  CREATE: "create_revision",
  MOD: "mod_revision",
  VALUE: "value",
};
const sortNames = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"];

/**
 * Keys that are equal in what they are sorted by come in no certain order from etcd, and a limit takes any of the last
 * ones that are equal. Each group of equals becomes a set; the last one, when cut, becomes its size.
 */
function withoutTies(request: JsonObject, answer: JsonObject): JsonObject {
  const given = request.sort_target;
  const field = sortFields[typeof given === "number" ? sortNames[given]! : String(given)];
  const kvs = Array.isArray(answer.kvs) ? answer.kvs as readonly JsonObject[] : undefined;
  // A value that was left out cannot tell who is equal: then the whole answer is one group.
  if (field === undefined || kvs === undefined) return answer;
  const blind = field === "value" && request.keys_only === true;
  const groups: { by: string; members: JsonObject[] }[] = [];
  for (const kv of kvs) {
    const by = blind ? "" : String(kv[field] ?? "");
    if (groups.at(-1)?.by === by) groups.at(-1)!.members.push(kv);
    else groups.push({ by, members: [kv] });
  }
  const made = groups.map(({ by, members }, i): Json => {
    const cut = answer.more === true && i === groups.length - 1;
    return [by, cut ? members.length : members.map((kv) => JSON.stringify(kv)).sort()];
  });
  return { ...answer, kvs: made };
}

const sortTies: Rule = { name: "sort-ties", apply: onRanges(withoutTies) };

/**
 * Without an order but with something to sort by, etcd takes the first keys up to the limit and sorts those; here the
 * limit takes the first of all that is sorted. What is left to compare is how many came and how many there are.
 */
const limitBeforeSort: Rule = {
  name: "limit-before-sort",
  apply: onRanges((request, answer) => {
    const none = request.sort_order === undefined || request.sort_order === "NONE" || request.sort_order === 0;
    const target = request.sort_target;
    const byKey = target === undefined || target === "KEY" || target === 0;
    const filters = ["min_mod_revision", "max_mod_revision", "minCreateRevision", "max_create_revision"];
    const filtered = filters.some((name) => Number(request[name] ?? 0) !== 0);
    if (!none || byKey || filtered || answer.more !== true) return answer;
    return { ...answer, kvs: (answer.kvs as readonly Json[]).length };
  }),
};

/** A rule for every range of an answer, those of transactions too. */
function onRanges(change: (request: JsonObject, answer: JsonObject) => JsonObject): Rule["apply"] {
  return ({ status, body }, { request, path }) => {
    if (!isObject(request) || !isObject(body)) return { status, body };
    if (path === "/v3/kv/range") return { status, body: change(request, body) };
    return { status, body: path === "/v3/kv/txn" ? onTxnRanges(request, body, change) : body };
  };
}

function onTxnRanges(
  request: JsonObject,
  answer: JsonObject,
  change: (request: JsonObject, answer: JsonObject) => JsonObject,
): JsonObject {
  const ops = (answer.succeeded === true ? request.success : request.failure) as readonly JsonObject[] | undefined;
  const responses = answer.responses as readonly JsonObject[] | undefined;
  if (ops === undefined || responses === undefined) return answer;
  return {
    ...answer,
    responses: responses.map((response, i): JsonObject => {
      const op = ops[i] ?? {};
      if (isObject(op.request_range) && isObject(response.response_range)) {
        return { response_range: change(op.request_range, response.response_range) };
      }
      if (isObject(op.request_txn) && isObject(response.response_txn)) {
        return { response_txn: onTxnRanges(op.request_txn, response.response_txn, change) };
      }
      return response;
    }),
  };
}

const isRefused = ({ status, body }: Answer, code: number) => status >= 400 && isObject(body) && body.code === code;

/** Watches of one body take turns as they come; each tells its own in order. */
const watchTurns: Rule = {
  name: "watch-turns",
  apply({ status, body }, { path }) {
    if (path !== "/v3/watch control" || !Array.isArray(body)) return { status, body };
    const id = (message: Json) => Number((message as JsonObject).watch_id ?? 0);
    return { status, body: [...body as readonly Json[]].sort((a, b) => id(a) - id(b)) };
  },
};

/** etcd takes a compaction at revision 0 once, while there was none before; it forgets nothing. */
const compactionOfNothing: Rule = {
  name: "compaction-of-nothing",
  apply(answer, { path, request, etcd, chainfire }) {
    const nothing = path === "/v3/kv/compaction" && isObject(request) && Number(request.revision ?? 0) === 0;
    return nothing && etcd.status === 200 && isRefused(chainfire, 11) ? { status: 200, body: null } : answer;
  },
};

/**
 * etcd does not see that a put meets a deletion without end, nor one that an earlier inner transaction meets a deletion
 * of a later one. Only where it then did nothing, so that both still hold the same.
 */
const missedDuplicates: Rule = {
  name: "missed-duplicates",
  apply(answer, { path, request, etcd, chainfire }) {
    if (path !== "/v3/kv/txn" || !/"request_delete_range"/.test(JSON.stringify(request))) return answer;
    const words = isObject(chainfire.body) ? chainfire.body.message : "";
    const refused = isRefused(chainfire, 3) && words === "etcdserver: duplicate key given in txn request";
    const idle = etcd.status === 200 && isObject(etcd.body) && Object.keys(etcd.body).join() === "header";
    return refused && idle ? { status: 200, body: null } : answer;
  },
};

/** etcd takes a revision below 0 as now, but in a transaction it is before any compaction. */
const negativeRevisionInTxn: Rule = {
  name: "negative-revision-in-txn",
  apply(answer, { path, request, etcd, chainfire }) {
    const negative = path === "/v3/kv/txn" && /"revision":"?-/.test(JSON.stringify(request));
    return negative && isRefused(etcd, 11) && chainfire.status === 200 ? { status: 200, body: null } : answer;
  },
};

export const rules: readonly Rule[] = [
  headerIds,
  leaseOrder,
  remainingTtl,
  unreadableText,
  limitBeforeSort,
  sortTies,
  watchTurns,
  negativeRevisionInTxn,
  compactionOfNothing,
  missedDuplicates,
];

/** Names of all rules; the last is about changes of watches and stands in test_compare.ts. */
export const ruleNames: readonly string[] = [...rules.map(({ name }) => name), "compaction-boundary"];

/** The same text for equal values, whatever the order of fields. */
export function canonical(value: Json): string {
  return JSON.stringify(
    deep(value, (object) => Object.fromEntries(Object.entries(object).sort(([a], [b]) => a < b ? -1 : 1))),
  );
}

const same = (a: Answer, b: Answer) => a.status === b.status && canonical(a.body) === canonical(b.body);

/** Names of the rules that explain the difference of the two answers; undefined when they do not. */
export function explain(exchange: Exchange): string[] | undefined {
  let { etcd, chainfire } = exchange;
  const used: string[] = [];
  for (const rule of rules) {
    if (same(etcd, chainfire)) break;
    const [a, b] = [rule.apply(etcd, exchange), rule.apply(chainfire, exchange)];
    if (!same(a, etcd) || !same(b, chainfire)) used.push(rule.name);
    [etcd, chainfire] = [a, b];
  }
  return same(etcd, chainfire) ? used : undefined;
}
