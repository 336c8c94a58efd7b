/** chainfire as it is, on a disk that forgets what was not synced when the process is killed. */
import { systemDisk } from "@ultracloud/wal";
import { volatileDisk } from "./volatile_disk.ts";

Object.assign(systemDisk, volatileDisk({ ...systemDisk }, { lying: false }));
await import("../../services/chainfire/main.ts");
