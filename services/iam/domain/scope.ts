import { invalidField, namePattern } from "@ultracloud/base";

const partPattern = /^[a-z][a-z0-9_-]{0,30}$/;
const nameOrIdPattern = /^[A-Za-z0-9_-]{1,80}$/;

/** A scope taken apart; what it does not reach is empty. */
export interface Scope {
  readonly text: string;
  readonly org: string;
  /** "org/project". */
  readonly project: string;
}

/** Reads "" (the root), "org", "org/project" or "org/project/service/kind/name"; invalid_argument otherwise. */
export function parseScope(text: string, field = "scope"): Scope {
  if (text === "") return { text, org: "", project: "" };
  const parts = text.length <= 300 ? text.split("/") : [];
  const [org, project, service, kind, name] = parts;
  const good = [1, 2, 5].includes(parts.length) && namePattern.test(org!) &&
    (project === undefined || namePattern.test(project)) &&
    (service === undefined || partPattern.test(service) && partPattern.test(kind!) && nameOrIdPattern.test(name!));
  if (!good) {
    throw invalidField(
      field,
      `Cannot use ${
        JSON.stringify(text.slice(0, 80))
      } as ${field}: wanted nothing, org, org/project or org/project/service/kind/name`,
      "invalid_scope",
    );
  }
  return { text, org: org!, project: project === undefined ? "" : `${org}/${project}` };
}

/** The project records of a scope are kept under: "org/project", "org" or "". */
export function ownerOf(scope: Scope): string {
  return scope.project === "" ? scope.org : scope.project;
}

/** Scope of calls on an organisation by name or id; only principals of the root reach it by id. */
export function orgScope(org: string, field = "org"): string {
  if (nameOrIdPattern.test(org)) return org;
  throw invalidField(field, `Cannot use ${JSON.stringify(org.slice(0, 80))} as ${field}: wanted a name or an id`);
}

/** As `orgScope`, where the empty text means the root: the users who run the cluster live there. */
export function orgOrRootScope(org: string, field = "org"): string {
  return org === "" ? "" : orgScope(org, field);
}
