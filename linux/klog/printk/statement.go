package printk

// A Kind is the subject of a statement.
type Kind int

const (
	Attempt Kind = iota // a module is being loaded, or was refused
	Unload              // a module was unloaded
	Request             // the kernel requested the module Name from user space
	Note                // a detail of the attempt that follows
)

// A Stage is a part of a load, in the order of load_module (kernel/module/main.c). If a
// statement is of an earlier stage than one before it about the same module, it belongs
// to another attempt. The zero Stage is of messages that belong to several stages.
type Stage int

const (
	stageAny       Stage = iota
	stageSignature       // before the module's name is known
	stageCheck           // ELF, blacklist, version magic
	stageTaint           // after the module was added to the list
	stageLink            // per-cpu data, symbols
	stageParams          // parameters
	stageInit            // init and later
	stageLoader          // logged by the program that loads the module, after the system call
)

// A Statement is the content of one message. Fields that the message does not have are
// zero.
type Statement struct {
	Kind  Kind
	Stage Stage
	Name  string // the module's
	Path  string // the file's, as given to the loader

	Result    *int64 // 0 or -errno, unless a later message corrects it
	IsRefused bool   // the attempt fails; Result, if any, has the error
	IsLast    bool   // no further message is about the attempt
	LacksName bool   // earlier messages about the attempt may have its name

	Signature string // one of the root package's Signature constants
	Taints    int64  // mask of the TAINT_ bits that were set
	IsOutside bool   // the module is not from the kernel's own tree
	License   string
	Vermagic  string
	Params    string // one of the parameters
	Comm      string // of the process that made the attempt
	// IsBuiltin is set if code that is built into the kernel logs the same message
	// during boot.
	IsBuiltin bool
}
