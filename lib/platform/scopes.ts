import { checkProject, invalidField } from "@ultracloud/base";

/** Scope of calls on a whole project: create and list. */
export function projectScope(project: string): string {
  checkProject(project);
  return project;
}

/** Scope of calls on one resource; a binding on it, its project or its organisation applies. */
export function resourceScope(service: string, kind: string, project: string, nameOrId: string, field = kind): string {
  checkProject(project);
  if (!/^[A-Za-z0-9_-]{1,80}$/.test(nameOrId)) {
    throw invalidField(
      field,
      `Cannot use ${JSON.stringify(nameOrId.slice(0, 80))} as ${field}: wanted a name or an id`,
    );
  }
  return `${project}/${service}/${kind}/${nameOrId}`;
}
