package printk

// A Kind is what a statement is about.
type Kind int

const (
	Attempt Kind = iota // a module is being loaded, or was refused
	Unload              // a module went
	Request             // something made the kernel ask for a module; Name is what it asked for
	Note                // something that is no attempt, and says more of the one that follows it
)

// A Stage is a part of a load, in the order in which load_module goes through
// them (kernel/module/main.c). Of two statements about one module, one of an
// earlier stage that comes later belongs to another attempt.
type Stage int

const (
	stageAny       Stage = iota // said at several points
	stageSignature              // before the module's name is known
	stageCheck                  // ELF, blacklist, version magic
	stageTaint                  // it found its place among the modules
	stageLink                   // per-cpu data, symbols
	stageParams                 // its parameters
	stageInit                   // its init, or what comes after
	stageLoader                 // said by the program that made the attempt, when it was over
)

// A Statement is what one message says. Zero values are not said.
type Statement struct {
	Kind  Kind
	Stage Stage
	Name  string // the module's
	Path  string // the file's, as the loader was given it

	Result    *int64 // 0 or -errno, unless a later message corrects it
	IsRefused bool   // the attempt fails, and Result, or no message, says how
	IsLast    bool   // nothing more is said of the attempt

	Signature string // one of the root package's Signature constants
	Taints    int64  // mask of TAINT_ bits that the message says were set
	IsOutside bool   // the module does not come from the kernel's own tree
	License   string
	Vermagic  string
	Params    string // one of the parameters
	Comm      string // of the process that made the attempt
	// IsBuiltin says that what is built into the kernel says the same of itself
	// when the machine boots.
	IsBuiltin bool
}
