export * from "../gen/ultracloud/fetcher/v1/fetcher_pb.ts";
