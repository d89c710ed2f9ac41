//! The field table: every field of the kinds we handle, its type, and what becomes of it.
//!
//! The decoder obeys this table and the support page is printed from it, so the two can not disagree.
//! A field that is not here is unknown. Rules of thumb: what we can not keep is refused rather than
//! ignored; what has no meaning on one node is inert and reported; a security field is never inert.

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Does here what it does on a cluster.
    Honoured,
    /// The purpose is served in another way, told in the note.
    Emulated,
    /// Has no effect on one node; accepted, and reported as a warning.
    Inert,
    /// We can not keep it, so we do not pretend.
    Refused,
    /// Only these values, which say what happens anyway; others are refused.
    Only(&'static [&'static str]),
}

/// The type a field must have.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Boolean,
    Integer,
    /// File permissions: YAML 1.1 octal (`0644`) or decimal (`420`).
    Mode,
    Quantity,
    /// A port number or the name of a container port.
    Port,
    TextMap,
    QuantityMap,
    /// Base64 texts.
    BytesMap,
    TextList,
    IntegerList,
    Object(&'static Shape),
    Objects(&'static Shape),
    /// Not looked into: what is said of the field holds for all below it.
    Any,
}

/// An object type of the Kubernetes API.
#[derive(Debug)]
pub struct Shape {
    /// As the Kubernetes API reference calls it.
    pub name: &'static str,
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub class: Class,
    pub note: &'static str,
}

/// A top-level kind.
#[derive(Debug)]
pub struct TopKind {
    pub name: &'static str,
    pub api_version: &'static str,
    pub class: Class,
    pub note: &'static str,
    /// Of the kinds we decode.
    pub shape: Option<&'static Shape>,
}

impl Shape {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

const fn honoured(name: &'static str, kind: Kind, note: &'static str) -> Field {
    Field { name, kind, class: Class::Honoured, note }
}

const fn emulated(name: &'static str, kind: Kind, note: &'static str) -> Field {
    Field { name, kind, class: Class::Emulated, note }
}

/// Inert or refused as a whole, so nobody looks inside.
const fn inert(name: &'static str, note: &'static str) -> Field {
    Field { name, kind: Kind::Any, class: Class::Inert, note }
}

const fn refused(name: &'static str, note: &'static str) -> Field {
    Field { name, kind: Kind::Any, class: Class::Refused, note }
}

const fn only(name: &'static str, kind: Kind, values: &'static [&'static str], note: &'static str) -> Field {
    Field { name, kind, class: Class::Only(values), note }
}

const fn shape(name: &'static str, fields: &'static [Field]) -> Shape {
    Shape { name, fields }
}

const fn kind(
    name: &'static str,
    api_version: &'static str,
    class: Class,
    note: &'static str,
    shape: Option<&'static Shape>,
) -> TopKind {
    TopKind { name, api_version, class, note, shape }
}

use Class::{Honoured, Inert, Refused};
use Kind::{
    Any, Boolean, BytesMap, Integer, IntegerList, Mode, Object, Objects, Port, Quantity, QuantityMap, Text,
    TextList, TextMap,
};

/// Kinds that stand at the top of a document. Others are reported by name and left alone.
pub static TOP_KINDS: &[TopKind] = &[
    kind("Pod", "v1", Honoured, "", Some(&POD)),
    kind("Deployment", "apps/v1", Honoured, "its pods are called NAME-0, NAME-1 ...", Some(&DEPLOYMENT)),
    kind("StatefulSet", "apps/v1", Honoured, "", Some(&STATEFUL_SET)),
    kind("DaemonSet", "apps/v1", Honoured, "one pod, NAME-0, on this node", Some(&DAEMON_SET)),
    kind("Job", "batch/v1", Honoured, "one pod, NAME-0, run to success once", Some(&JOB)),
    kind("Service", "v1", Honoured, "", Some(&SERVICE)),
    kind("ConfigMap", "v1", Honoured, "", Some(&CONFIG_MAP)),
    kind("Secret", "v1", Honoured, "", Some(&SECRET)),
    kind("PersistentVolumeClaim", "v1", Honoured, "a volume of the engine", Some(&CLAIM)),
    kind("List", "v1", Honoured, "its items; an empty list is a deliberate \"nothing\"", None),
    kind("CronJob", "batch/v1", Refused, "schedules are not run yet", None),
    kind("NetworkPolicy", "networking.k8s.io/v1", Refused, "traffic between pods is not filtered yet", None),
    kind("Namespace", "v1", Inert, "namespaces need not be declared", None),
];

pub static OBJECT_META: Shape = shape(
    "ObjectMeta",
    &[
        honoured("name", Text, ""),
        honoured("namespace", Text, "part of names and of DNS; `default` if not given"),
        honoured("labels", TextMap, ""),
        honoured("annotations", TextMap, "kept with the pod"),
        refused("generateName", "a name must be the same on every pass"),
        refused("ownerReferences", "owners are the documents themselves"),
        refused("finalizers", "nobody would ever remove them"),
        inert("creationTimestamp", "set by a cluster"),
        inert("deletionTimestamp", "set by a cluster"),
        inert("deletionGracePeriodSeconds", "set by a cluster"),
        inert("generation", "set by a cluster"),
        inert("managedFields", "set by a cluster"),
        inert("resourceVersion", "set by a cluster"),
        inert("selfLink", "set by a cluster"),
        inert("uid", "set by a cluster"),
    ],
);

const API_VERSION: Field = honoured("apiVersion", Text, "");
const KIND: Field = honoured("kind", Text, "");
const METADATA: Field = honoured("metadata", Object(&OBJECT_META), "");
const STATUS: Field = inert("status", "written by a cluster");

pub static POD: Shape =
    shape("Pod", &[API_VERSION, KIND, METADATA, honoured("spec", Object(&POD_SPEC), ""), STATUS]);

pub static POD_TEMPLATE: Shape =
    shape("PodTemplateSpec", &[METADATA, honoured("spec", Object(&POD_SPEC), "")]);

pub static POD_SPEC: Shape = shape(
    "PodSpec",
    &[
        honoured("containers", Objects(&CONTAINER), ""),
        honoured("initContainers", Objects(&CONTAINER), "with `restartPolicy: Always` a sidecar"),
        honoured("volumes", Objects(&VOLUME), ""),
        honoured("restartPolicy", Text, "Always, OnFailure or Never, with kubelet's back-off"),
        honoured("terminationGracePeriodSeconds", Integer, "default 30"),
        honoured("activeDeadlineSeconds", Integer, ""),
        honoured("hostname", Text, "default: the pod's name"),
        honoured("subdomain", Text, "with a headless Service of that name, the pod's own DNS name"),
        honoured("setHostnameAsFQDN", Boolean, ""),
        honoured("hostAliases", Objects(&HOST_ALIAS), ""),
        honoured(
            "dnsPolicy",
            Text,
            "ClusterFirst, None; Default also asks the network's resolver, which asks the host's",
        ),
        honoured("dnsConfig", Object(&DNS_CONFIG), ""),
        honoured("hostNetwork", Boolean, ""),
        honoured("hostPID", Boolean, ""),
        honoured("hostIPC", Boolean, ""),
        honoured("shareProcessNamespace", Boolean, ""),
        honoured("securityContext", Object(&POD_SECURITY_CONTEXT), ""),
        honoured("imagePullSecrets", Objects(&LOCAL_REFERENCE), "of type kubernetes.io/dockerconfigjson"),
        honoured("runtimeClassName", Text, "the name of an OCI runtime: selkie, crun, runc, youki"),
        only("hostUsers", Boolean, &["true"], "user namespaces are not made yet"),
        honoured("os", Object(&POD_OS), ""),
        refused("resources", "limits for the pod as a whole are not set yet: give them per container"),
        refused("ephemeralContainers", "added to running pods by a cluster"),
        refused("readinessGates", "nobody here would set the condition, so the pod would never be ready"),
        refused("schedulingGates", "nobody here would open the gate"),
        refused("schedulingGroup", "pods are not started in groups"),
        refused("evictionResponders", "pods are not evicted"),
        refused("resourceClaims", "there are no device drivers"),
        refused("hostnameOverride", "use hostname"),
        refused("overhead", "set by a cluster's admission"),
        emulated("nodeName", Text, "must be this node's name, if given"),
        inert("nodeSelector", "there is one node"),
        inert("affinity", "there is one node"),
        inert("tolerations", "the node has no taints"),
        inert("topologySpreadConstraints", "there is one topology domain"),
        inert("schedulerName", "there is no scheduler"),
        inert("priority", "there is no scheduler"),
        inert("priorityClassName", "there is no scheduler"),
        inert("preemptionPolicy", "there is no scheduler"),
        inert("enableServiceLinks", "no variables are made of Services: they are found by DNS"),
        inert("serviceAccountName", "there is no API server to be known to: no token is mounted"),
        inert("serviceAccount", "there is no API server to be known to: no token is mounted"),
        inert("automountServiceAccountToken", "no token is ever mounted"),
    ],
);

static POD_OS: Shape = shape("PodOS", &[only("name", Text, &["linux"], "")]);

static HOST_ALIAS: Shape =
    shape("HostAlias", &[honoured("ip", Text, ""), honoured("hostnames", TextList, "")]);

static DNS_CONFIG: Shape = shape(
    "PodDNSConfig",
    &[
        honoured(
            "nameservers",
            TextList,
            "with `dnsPolicy: None`; otherwise they would hide the names of Services",
        ),
        honoured("searches", TextList, ""),
        honoured("options", Objects(&DNS_OPTION), ""),
    ],
);

static DNS_OPTION: Shape =
    shape("PodDNSConfigOption", &[honoured("name", Text, ""), honoured("value", Text, "")]);

static LOCAL_REFERENCE: Shape = shape("LocalObjectReference", &[honoured("name", Text, "")]);

static POD_SECURITY_CONTEXT: Shape = shape(
    "PodSecurityContext",
    &[
        honoured("runAsUser", Integer, ""),
        honoured("runAsGroup", Integer, "needs runAsUser"),
        honoured("runAsNonRoot", Boolean, ""),
        honoured("supplementalGroups", IntegerList, ""),
        only("supplementalGroupsPolicy", Text, &["Merge"], "groups of the image are always kept"),
        honoured("fsGroup", Integer, ""),
        emulated("fsGroupChangePolicy", Text, "ownership is set when it differs"),
        honoured("seccompProfile", Object(&SECCOMP_PROFILE), "RuntimeDefault if not given"),
        honoured("appArmorProfile", Object(&APP_ARMOR_PROFILE), ""),
        refused("seLinuxOptions", "SELinux labels are not set yet"),
        refused("seLinuxChangePolicy", "SELinux labels are not set yet"),
        honoured("sysctls", Objects(&SYSCTL), ""),
        refused("windowsOptions", "Windows only"),
    ],
);

static SECCOMP_PROFILE: Shape = shape(
    "SeccompProfile",
    &[
        honoured("type", Text, "RuntimeDefault, Unconfined or Localhost"),
        honoured("localhostProfile", Text, "below kubelet's directory, /var/lib/kubelet/seccomp"),
    ],
);

static APP_ARMOR_PROFILE: Shape = shape(
    "AppArmorProfile",
    &[
        honoured(
            "type",
            Text,
            "Unconfined or Localhost; RuntimeDefault is refused: no profile comes with Selkie",
        ),
        honoured("localhostProfile", Text, "the name of a loaded profile"),
    ],
);

static SYSCTL: Shape = shape("Sysctl", &[honoured("name", Text, ""), honoured("value", Text, "")]);

pub static CONTAINER: Shape = shape(
    "Container",
    &[
        honoured("name", Text, ""),
        honoured("image", Text, ""),
        honoured(
            "imagePullPolicy",
            Text,
            "default: Always for `:latest` or no tag, else IfNotPresent; images of `localhost/` are never pulled by default",
        ),
        honoured("command", TextList, "with `$(VAR)`"),
        honoured("args", TextList, "with `$(VAR)`"),
        honoured("workingDir", Text, ""),
        honoured("ports", Objects(&CONTAINER_PORT), ""),
        honoured("env", Objects(&ENV_VAR), ""),
        honoured("envFrom", Objects(&ENV_FROM), ""),
        honoured("resources", Object(&RESOURCES), ""),
        honoured("volumeMounts", Objects(&VOLUME_MOUNT), ""),
        refused("volumeDevices", "block devices are not handed to containers yet"),
        honoured("livenessProbe", Object(&PROBE), ""),
        honoured("readinessProbe", Object(&PROBE), ""),
        honoured("startupProbe", Object(&PROBE), ""),
        honoured("lifecycle", Object(&LIFECYCLE), ""),
        honoured("securityContext", Object(&SECURITY_CONTEXT), ""),
        honoured("restartPolicy", Text, "of an init container: Always makes it a sidecar"),
        refused("restartPolicyRules", "restarts do not look at exit codes yet"),
        inert("resizePolicy", "resources are not changed in place: the pod is replaced"),
        honoured("stdin", Boolean, ""),
        only("stdinOnce", Boolean, &["false"], "standard input stays open"),
        honoured("tty", Boolean, ""),
        inert("terminationMessagePath", "termination messages are not collected"),
        inert("terminationMessagePolicy", "termination messages are not collected"),
    ],
);

static CONTAINER_PORT: Shape = shape(
    "ContainerPort",
    &[
        honoured("containerPort", Integer, "by itself it publishes nothing"),
        honoured("hostPort", Integer, "published on the host"),
        honoured("hostIP", Text, ""),
        honoured("name", Text, "for probes and Services"),
        honoured("protocol", Text, "TCP, UDP or SCTP"),
    ],
);

static ENV_VAR: Shape = shape(
    "EnvVar",
    &[
        honoured("name", Text, ""),
        honoured("value", Text, "with `$(VAR)` of earlier variables"),
        honoured("valueFrom", Object(&ENV_VAR_SOURCE), ""),
    ],
);

static ENV_VAR_SOURCE: Shape = shape(
    "EnvVarSource",
    &[
        honoured("configMapKeyRef", Object(&KEY_SELECTOR), ""),
        honoured("secretKeyRef", Object(&KEY_SELECTOR), ""),
        honoured("fieldRef", Object(&FIELD_SELECTOR), ""),
        honoured("resourceFieldRef", Object(&RESOURCE_SELECTOR), ""),
        refused("fileKeyRef", "variables are not read from files yet"),
    ],
);

static KEY_SELECTOR: Shape = shape(
    "ConfigMapKeySelector, SecretKeySelector",
    &[honoured("name", Text, ""), honoured("key", Text, ""), honoured("optional", Boolean, "")],
);

static FIELD_SELECTOR: Shape = shape(
    "ObjectFieldSelector",
    &[
        honoured(
            "fieldPath",
            Text,
            "metadata.name, .namespace, .uid, .labels['K'], .annotations['K'], spec.nodeName, spec.serviceAccountName, status.podIP(s), status.hostIP(s)",
        ),
        only("apiVersion", Text, &["v1"], ""),
    ],
);

static RESOURCE_SELECTOR: Shape = shape(
    "ResourceFieldSelector",
    &[
        honoured("resource", Text, "limits and requests of cpu and memory"),
        honoured("containerName", Text, ""),
        honoured("divisor", Quantity, ""),
    ],
);

static ENV_FROM: Shape = shape(
    "EnvFromSource",
    &[
        honoured("configMapRef", Object(&ENV_FROM_REFERENCE), ""),
        honoured("secretRef", Object(&ENV_FROM_REFERENCE), ""),
        honoured("prefix", Text, ""),
    ],
);

static ENV_FROM_REFERENCE: Shape = shape(
    "ConfigMapEnvSource, SecretEnvSource",
    &[honoured("name", Text, ""), honoured("optional", Boolean, "")],
);

static RESOURCES: Shape = shape(
    "ResourceRequirements",
    &[
        honoured("limits", QuantityMap, "cpu and memory, with kubelet's formulas; others are refused"),
        emulated(
            "requests",
            QuantityMap,
            "cpu becomes a weight, memory a soft limit; nothing is reserved; ephemeral-storage has no effect",
        ),
        refused("claims", "there are no device drivers"),
    ],
);

static VOLUME_MOUNT: Shape = shape(
    "VolumeMount",
    &[
        honoured("name", Text, ""),
        honoured("mountPath", Text, ""),
        honoured("readOnly", Boolean, ""),
        honoured("subPath", Text, ""),
        honoured("subPathExpr", Text, "without values that only the running pod has"),
        honoured("mountPropagation", Text, "None, HostToContainer or Bidirectional"),
        only("recursiveReadOnly", Text, &["Disabled"], "submounts keep their own mode"),
        refused("bindMountOptions", "not set yet"),
    ],
);

static PROBE: Shape = shape(
    "Probe",
    &[
        honoured("exec", Object(&EXEC_ACTION), "run in the container"),
        honoured("httpGet", Object(&HTTP_ACTION), "made by the daemon: nothing is needed in the image"),
        honoured("tcpSocket", Object(&TCP_ACTION), "made by the daemon"),
        honoured("grpc", Object(&GRPC_ACTION), "made by the daemon"),
        honoured("initialDelaySeconds", Integer, ""),
        honoured("periodSeconds", Integer, "default 10"),
        honoured("timeoutSeconds", Integer, "default 1"),
        honoured("successThreshold", Integer, "default 1"),
        honoured("failureThreshold", Integer, "default 3"),
        honoured("terminationGracePeriodSeconds", Integer, ""),
    ],
);

static EXEC_ACTION: Shape = shape("ExecAction", &[honoured("command", TextList, "")]);

static HTTP_ACTION: Shape = shape(
    "HTTPGetAction",
    &[
        honoured("port", Port, ""),
        honoured("path", Text, "default /"),
        honoured("host", Text, "default: the pod's address"),
        honoured("scheme", Text, "HTTP, or HTTPS without verification"),
        honoured("httpHeaders", Objects(&HTTP_HEADER), ""),
        refused("protocol", "use scheme"),
    ],
);

static HTTP_HEADER: Shape = shape("HTTPHeader", &[honoured("name", Text, ""), honoured("value", Text, "")]);

static TCP_ACTION: Shape = shape(
    "TCPSocketAction",
    &[honoured("port", Port, ""), honoured("host", Text, "default: the pod's address")],
);

static GRPC_ACTION: Shape = shape(
    "GRPCAction",
    &[honoured("port", Integer, ""), honoured("service", Text, ""), refused("mode", "plain gRPC only")],
);

static LIFECYCLE: Shape = shape(
    "Lifecycle",
    &[
        honoured("postStart", Object(&LIFECYCLE_HANDLER), "its failure kills the container"),
        honoured("preStop", Object(&LIFECYCLE_HANDLER), "within the grace period"),
        honoured("stopSignal", Text, "SIGTERM ..."),
    ],
);

static LIFECYCLE_HANDLER: Shape = shape(
    "LifecycleHandler",
    &[
        honoured("exec", Object(&EXEC_ACTION), ""),
        honoured("httpGet", Object(&HTTP_ACTION), ""),
        honoured("sleep", Object(&SLEEP_ACTION), ""),
        refused("tcpSocket", "never worked in Kubernetes either"),
    ],
);

static SLEEP_ACTION: Shape = shape("SleepAction", &[honoured("seconds", Integer, "")]);

static SECURITY_CONTEXT: Shape = shape(
    "SecurityContext",
    &[
        honoured("runAsUser", Integer, ""),
        honoured("runAsGroup", Integer, "needs runAsUser"),
        honoured("runAsNonRoot", Boolean, ""),
        honoured("readOnlyRootFilesystem", Boolean, ""),
        honoured("privileged", Boolean, ""),
        honoured("allowPrivilegeEscalation", Boolean, ""),
        honoured("capabilities", Object(&CAPABILITIES), ""),
        honoured("seccompProfile", Object(&SECCOMP_PROFILE), "RuntimeDefault if not given"),
        honoured("appArmorProfile", Object(&APP_ARMOR_PROFILE), ""),
        honoured("procMount", Text, "Default or Unmasked"),
        refused("seLinuxOptions", "SELinux labels are not set yet"),
        refused("windowsOptions", "Windows only"),
    ],
);

static CAPABILITIES: Shape = shape(
    "Capabilities",
    &[honoured("add", TextList, "ALL allowed"), honoured("drop", TextList, "ALL allowed")],
);

static VOLUME: Shape = shape(
    "Volume",
    &[
        honoured("name", Text, ""),
        honoured("emptyDir", Object(&EMPTY_DIR), ""),
        honoured("hostPath", Object(&HOST_PATH), ""),
        honoured("configMap", Object(&CONFIG_MAP_VOLUME), ""),
        honoured("secret", Object(&SECRET_VOLUME), ""),
        honoured("projected", Object(&PROJECTED), ""),
        honoured("downwardAPI", Object(&DOWNWARD), ""),
        honoured("persistentVolumeClaim", Object(&CLAIM_VOLUME), ""),
        refused("ephemeral", "use emptyDir, or a PersistentVolumeClaim"),
        refused("image", "image volumes are not mounted yet"),
        refused("nfs", "mount it on the host and use hostPath"),
        refused("csi", "there are no CSI drivers"),
        refused("iscsi", "mount it on the host and use hostPath"),
        refused("fc", "mount it on the host and use hostPath"),
        refused("flexVolume", "there are no volume plugins"),
        refused("gitRepo", "removed from Kubernetes: use an init container"),
        refused("awsElasticBlockStore", "removed from Kubernetes"),
        refused("azureDisk", "removed from Kubernetes"),
        refused("azureFile", "removed from Kubernetes"),
        refused("cephfs", "removed from Kubernetes"),
        refused("cinder", "removed from Kubernetes"),
        refused("flocker", "removed from Kubernetes"),
        refused("gcePersistentDisk", "removed from Kubernetes"),
        refused("glusterfs", "removed from Kubernetes"),
        refused("photonPersistentDisk", "removed from Kubernetes"),
        refused("portworxVolume", "removed from Kubernetes"),
        refused("quobyte", "removed from Kubernetes"),
        refused("rbd", "removed from Kubernetes"),
        refused("scaleIO", "removed from Kubernetes"),
        refused("storageos", "removed from Kubernetes"),
        refused("vsphereVolume", "removed from Kubernetes"),
    ],
);

static EMPTY_DIR: Shape = shape(
    "EmptyDirVolumeSource",
    &[
        honoured("medium", Text, "empty, or Memory; huge pages are refused"),
        honoured("sizeLimit", Quantity, "with `medium: Memory`; on disk it is refused"),
        refused("mode", "always 0777, as in Kubernetes"),
    ],
);

static HOST_PATH: Shape =
    shape("HostPathVolumeSource", &[honoured("path", Text, ""), honoured("type", Text, "all eight")]);

static CONFIG_MAP_VOLUME: Shape = shape(
    "ConfigMapVolumeSource, ConfigMapProjection",
    &[
        honoured("name", Text, ""),
        honoured("items", Objects(&KEY_TO_PATH), ""),
        honoured("defaultMode", Mode, "default 0644"),
        honoured("optional", Boolean, ""),
        refused("defaultUser", "files belong to root"),
    ],
);

static KEY_TO_PATH: Shape = shape(
    "KeyToPath",
    &[
        honoured("key", Text, ""),
        honoured("path", Text, ""),
        honoured("mode", Mode, ""),
        refused("user", "files belong to root"),
    ],
);

static SECRET_VOLUME: Shape = shape(
    "SecretVolumeSource",
    &[
        honoured("secretName", Text, ""),
        honoured("items", Objects(&KEY_TO_PATH), ""),
        honoured("defaultMode", Mode, "default 0644"),
        honoured("optional", Boolean, ""),
        refused("defaultUser", "files belong to root"),
    ],
);

static PROJECTED: Shape = shape(
    "ProjectedVolumeSource",
    &[
        honoured("sources", Objects(&PROJECTION), ""),
        honoured("defaultMode", Mode, "default 0644"),
        refused("defaultUser", "files belong to root"),
    ],
);

static PROJECTION: Shape = shape(
    "VolumeProjection",
    &[
        honoured("configMap", Object(&CONFIG_MAP_VOLUME), ""),
        honoured("secret", Object(&SECRET_PROJECTION), ""),
        honoured("downwardAPI", Object(&DOWNWARD), ""),
        refused("serviceAccountToken", "there is nobody to issue tokens"),
        refused("clusterTrustBundle", "there is nobody to issue certificates"),
        refused("podCertificate", "there is nobody to issue certificates"),
    ],
);

static SECRET_PROJECTION: Shape = shape(
    "SecretProjection",
    &[
        honoured("name", Text, ""),
        honoured("items", Objects(&KEY_TO_PATH), ""),
        honoured("optional", Boolean, ""),
    ],
);

static DOWNWARD: Shape = shape(
    "DownwardAPIVolumeSource, DownwardAPIProjection",
    &[
        honoured("items", Objects(&DOWNWARD_FILE), ""),
        honoured("defaultMode", Mode, "default 0644"),
        refused("defaultUser", "files belong to root"),
    ],
);

static DOWNWARD_FILE: Shape = shape(
    "DownwardAPIVolumeFile",
    &[
        honoured("path", Text, ""),
        honoured("fieldRef", Object(&FIELD_SELECTOR), "metadata except uid"),
        honoured("resourceFieldRef", Object(&RESOURCE_SELECTOR), ""),
        honoured("mode", Mode, ""),
        refused("user", "files belong to root"),
    ],
);

static CLAIM_VOLUME: Shape = shape(
    "PersistentVolumeClaimVolumeSource",
    &[honoured("claimName", Text, ""), honoured("readOnly", Boolean, "")],
);

pub static LABEL_SELECTOR: Shape = shape(
    "LabelSelector",
    &[
        honoured("matchLabels", TextMap, "must fit the template's labels"),
        honoured("matchExpressions", Objects(&LABEL_REQUIREMENT), "must fit the template's labels"),
    ],
);

static LABEL_REQUIREMENT: Shape = shape(
    "LabelSelectorRequirement",
    &[
        honoured("key", Text, ""),
        honoured("operator", Text, "In, NotIn, Exists, DoesNotExist"),
        honoured("values", TextList, ""),
    ],
);

pub static DEPLOYMENT: Shape = shape(
    "Deployment",
    &[API_VERSION, KIND, METADATA, honoured("spec", Object(&DEPLOYMENT_SPEC), ""), STATUS],
);

static DEPLOYMENT_SPEC: Shape = shape(
    "DeploymentSpec",
    &[
        honoured("replicas", Integer, "default 1"),
        honoured("selector", Object(&LABEL_SELECTOR), ""),
        honoured("template", Object(&POD_TEMPLATE), ""),
        inert("strategy", "pods are replaced in place, without surge: rollouts come later"),
        inert("minReadySeconds", "ready counts at once: rollouts come later"),
        inert("progressDeadlineSeconds", "the stack's own deadline holds"),
        inert("revisionHistoryLimit", "old templates are not kept"),
        only("paused", Boolean, &["false"], "updates can not be held back"),
    ],
);

pub static DAEMON_SET: Shape = shape(
    "DaemonSet",
    &[API_VERSION, KIND, METADATA, honoured("spec", Object(&DAEMON_SET_SPEC), ""), STATUS],
);

static DAEMON_SET_SPEC: Shape = shape(
    "DaemonSetSpec",
    &[
        honoured("selector", Object(&LABEL_SELECTOR), ""),
        honoured("template", Object(&POD_TEMPLATE), ""),
        inert("updateStrategy", "the pod is replaced in place"),
        inert("minReadySeconds", "ready counts at once"),
        inert("revisionHistoryLimit", "old templates are not kept"),
    ],
);

pub static STATEFUL_SET: Shape = shape(
    "StatefulSet",
    &[API_VERSION, KIND, METADATA, honoured("spec", Object(&STATEFUL_SET_SPEC), ""), STATUS],
);

static STATEFUL_SET_SPEC: Shape = shape(
    "StatefulSetSpec",
    &[
        honoured("replicas", Integer, "default 1"),
        honoured("selector", Object(&LABEL_SELECTOR), ""),
        honoured("template", Object(&POD_TEMPLATE), ""),
        honoured("serviceName", Text, "the pods' subdomain"),
        honoured("volumeClaimTemplates", Objects(&CLAIM), "one volume per pod, never removed with it"),
        honoured("ordinals", Object(&ORDINALS), ""),
        honoured("persistentVolumeClaimRetentionPolicy", Object(&RETENTION), ""),
        inert("podManagementPolicy", "pods start side by side"),
        inert("updateStrategy", "pods are replaced in place"),
        inert("minReadySeconds", "ready counts at once"),
        inert("revisionHistoryLimit", "old templates are not kept"),
    ],
);

static ORDINALS: Shape = shape("StatefulSetOrdinals", &[honoured("start", Integer, "")]);

static RETENTION: Shape = shape(
    "StatefulSetPersistentVolumeClaimRetentionPolicy",
    &[
        only("whenDeleted", Text, &["Retain"], "volumes are never removed unasked"),
        only("whenScaled", Text, &["Retain"], "volumes are never removed unasked"),
    ],
);

pub static JOB: Shape =
    shape("Job", &[API_VERSION, KIND, METADATA, honoured("spec", Object(&JOB_SPEC), ""), STATUS]);

static JOB_SPEC: Shape = shape(
    "JobSpec",
    &[
        honoured("template", Object(&POD_TEMPLATE), "restartPolicy OnFailure or Never"),
        honoured("backoffLimit", Integer, "default 6"),
        honoured("activeDeadlineSeconds", Integer, ""),
        honoured("suspend", Boolean, ""),
        only("completions", Integer, &["1"], "one pod is run once"),
        only("parallelism", Integer, &["1"], "one pod is run once"),
        only("completionMode", Text, &["NonIndexed"], "one pod is run once"),
        only("manualSelector", Boolean, &["false"], "a Job finds its pod by name"),
        only("podReplacementPolicy", Text, &["TerminatingOrFailed", "Failed"], ""),
        inert("selector", "a Job finds its pod by name"),
        inert("ttlSecondsAfterFinished", "the finished pod stays as long as its document"),
        refused("backoffLimitPerIndex", "one pod is run once"),
        refused("maxFailedIndexes", "one pod is run once"),
        refused("podFailurePolicy", "failures are counted alike yet"),
        refused("successPolicy", "one pod is run once"),
        refused("managedBy", "there is no other controller"),
        refused("scheduling", "there is no scheduler"),
    ],
);

pub static CONFIG_MAP: Shape = shape(
    "ConfigMap",
    &[
        API_VERSION,
        KIND,
        METADATA,
        honoured("data", TextMap, ""),
        honoured("binaryData", BytesMap, ""),
        inert("immutable", "the file decides: what changes there changes here"),
    ],
);

pub static SECRET: Shape = shape(
    "Secret",
    &[
        API_VERSION,
        KIND,
        METADATA,
        honoured("data", BytesMap, ""),
        honoured("stringData", TextMap, "wins over data"),
        emulated("type", Text, "looked at in imagePullSecrets only"),
        inert("immutable", "the file decides: what changes there changes here"),
    ],
);

pub static CLAIM: Shape = shape(
    "PersistentVolumeClaim",
    &[API_VERSION, KIND, METADATA, honoured("spec", Object(&CLAIM_SPEC), ""), STATUS],
);

static CLAIM_SPEC: Shape = shape(
    "PersistentVolumeClaimSpec",
    &[
        emulated("accessModes", TextList, "any pod of this node may mount it"),
        emulated("resources", Object(&CLAIM_RESOURCES), "the size asked for is not a limit"),
        inert("storageClassName", "there is one kind of storage: a directory of the engine"),
        inert("volumeAttributesClassName", "there is one kind of storage"),
        only("volumeMode", Text, &["Filesystem"], "block devices are not handed to containers yet"),
        refused("volumeName", "claims are not bound to given volumes yet"),
        refused("selector", "claims are not bound to given volumes yet"),
        refused("dataSource", "volumes are not copied"),
        refused("dataSourceRef", "volumes are not copied"),
    ],
);

static CLAIM_RESOURCES: Shape = shape(
    "VolumeResourceRequirements",
    &[
        emulated("requests", QuantityMap, "the size asked for is not a limit"),
        refused("limits", "sizes are not limited yet"),
    ],
);

pub static SERVICE: Shape =
    shape("Service", &[API_VERSION, KIND, METADATA, honoured("spec", Object(&SERVICE_SPEC), ""), STATUS]);

static SERVICE_SPEC: Shape = shape(
    "ServiceSpec",
    &[
        honoured("type", Text, "ClusterIP or NodePort; LoadBalancer and ExternalName are refused"),
        honoured("selector", TextMap, "must not be empty: Endpoints are not handled"),
        honoured("ports", Objects(&SERVICE_PORT), ""),
        honoured("clusterIP", Text, "an address, or None for a headless Service"),
        emulated("clusterIPs", TextList, "must be the clusterIP alone"),
        honoured("publishNotReadyAddresses", Boolean, ""),
        only("sessionAffinity", Text, &["None"], "every connection is balanced by itself"),
        refused("sessionAffinityConfig", "every connection is balanced by itself"),
        only("externalTrafficPolicy", Text, &["Cluster"], "the client's address is not kept"),
        inert("internalTrafficPolicy", "there is one node"),
        inert("trafficDistribution", "there is one zone"),
        only("ipFamilyPolicy", Text, &["SingleStack", "PreferDualStack"], "one address per Service"),
        emulated("ipFamilies", TextList, "IPv4"),
        refused("externalIPs", "use NodePort, or hostPort in the pod"),
        refused("externalName", "names of others are not served"),
        refused("loadBalancerIP", "use NodePort, or hostPort in the pod"),
        refused("loadBalancerClass", "use NodePort, or hostPort in the pod"),
        refused("loadBalancerSourceRanges", "use NodePort, or hostPort in the pod"),
        refused("allocateLoadBalancerNodePorts", "use NodePort, or hostPort in the pod"),
        refused("healthCheckNodePort", "there is no load balancer to ask for it"),
    ],
);

static SERVICE_PORT: Shape = shape(
    "ServicePort",
    &[
        honoured("port", Integer, ""),
        honoured("targetPort", Port, "default: the same as port"),
        honoured("nodePort", Integer, "30000-32767; if not given, chosen by the Service's name"),
        honoured("protocol", Text, "TCP, UDP or SCTP"),
        honoured("name", Text, "needed with several ports"),
        inert("appProtocol", "a hint for others"),
    ],
);

/// A `List` is opened before its items are looked at.
pub static LIST: Shape =
    shape("List", &[API_VERSION, KIND, inert("metadata", ""), honoured("items", Any, "")]);
