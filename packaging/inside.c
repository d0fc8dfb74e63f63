/*
 * main() of a program with the interpreter inside: libpython is linked statically, and nothing is unpacked.
 *
 * freeze.py compiles this with place.c, handoff.c and the static library of the interpreter, where there is one;
 * elsewhere PyInstaller's bootloader is used, with launch.c. Compared with that one it saves writing and loading a
 * shared library of six megabytes, and the directory. The modules follow the program in the same file (importer.py);
 * the first ones, and importer.py and entry.py, are frozen into the program (first.h, which freeze.py generates).
 *
 * Extension modules are loaded from memory, or where that may not be executed from a directory.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>
#include "bundle.h"
#include "first.h"
#include "handoff.h"
#include "place.h"

#define HOME "/frozen" /* the directory where modules seem to be: no file is ever looked for there */

/* os.setns() and os.unshare() are of Python 3.12. */
static PyObject *answer(int result)
{
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
}

static PyObject *inside_setns(PyObject *self, PyObject *arguments)
{
    int fd, kind;

    (void)self;
    return PyArg_ParseTuple(arguments, "ii", &fd, &kind) ? answer(setns(fd, kind)) : NULL;
}

static PyObject *inside_unshare(PyObject *self, PyObject *arguments)
{
    int kinds;

    (void)self;
    return PyArg_ParseTuple(arguments, "i", &kinds) ? answer(unshare(kinds)) : NULL;
}

/* Loads a library that extension modules need; they find it by its soname. */
static PyObject *inside_load(PyObject *self, PyObject *path)
{
    const char *text = PyUnicode_AsUTF8(path);

    (void)self;
    if (!text)
        return NULL;
    if (!dlopen(text, RTLD_LAZY | RTLD_LOCAL))
        return PyErr_Format(PyExc_ImportError, "%s", dlerror());
    Py_RETURN_NONE;
}

/* Returns a directory for extension modules; ends the process with an error document if there is none. */
static PyObject *inside_home(PyObject *self, PyObject *none)
{
    static char home[PATH_MAX];
    static pid_t owner; /* each process has its own: that of another may end first, or load the same module */

    (void)self, (void)none;
    if (owner != getpid()) {
        owner = getpid();
        if (take_place(home, NULL) < 0)
            _exit(1);
    }
    return PyUnicode_DecodeFSDefault(home);
}

/* Returns lock, socket and seconds for the process that is to stay behind, or None. */
static PyObject *inside_nest(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    if (!nest.seconds)
        Py_RETURN_NONE;
    return Py_BuildValue("(iiI)", nest.lock, nest.listener, nest.seconds);
}

static PyMethodDef methods[] = {{"setns", inside_setns, METH_VARARGS, NULL},
                                {"unshare", inside_unshare, METH_VARARGS, NULL},
                                {"load", inside_load, METH_O, NULL},
                                {"home", inside_home, METH_NOARGS, NULL},
                                {"nest", inside_nest, METH_NOARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_inside", NULL, -1, methods, NULL, NULL, NULL, NULL};

static PyObject *make_module(void)
{
    return PyModule_Create(&module);
}

static void fail(const char *what)
{
    fprintf(stderr, "cannot start: %s\n", what);
    exit(1);
}

static void require(PyStatus status)
{
    if (PyStatus_Exception(status))
        fail(status.err_msg ? status.err_msg : "the interpreter");
}

/* Opens our own file once, as it may be replaced by rename at any moment, and returns where the modules begin. */
static uint64_t find_modules(char *exe)
{
    struct trailer trailer;
    struct stat st;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* stays open until the process ends */

    if (fd >= 0)
        sprintf(exe, "/proc/self/fd/%d", fd);
    else if ((fd = open((const char *)getauxval(AT_EXECFN), O_RDONLY | O_CLOEXEC)) < 0 ||
             !realpath((const char *)getauxval(AT_EXECFN), exe))
        fail("its own file cannot be read");
    if (fstat(fd, &st) < 0 || pread(fd, &trailer, sizeof(trailer), st.st_size - (off_t)sizeof(trailer)) != sizeof(trailer) ||
        memcmp(trailer.magic, TRAILER_MAGIC, sizeof(trailer.magic)))
        fail("its own file is damaged");
    return trailer.modules;
}

static void start_interpreter(int argc, char **argv, const char *exe)
{
    PyPreConfig first_config;
    PyConfig config;
    wchar_t *empty = L"";

    PyImport_FrozenModules = first_modules;
    PyImport_AppendInittab("_inside", make_module);
    PyPreConfig_InitIsolatedConfig(&first_config);
    first_config.utf8_mode = 1;
    require(Py_PreInitialize(&first_config));
    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 1; /* SIGPIPE is ignored: a caller may be gone before its answer */
    config.module_search_paths_set = 1;
    config.optimization_level = 2;
    config.parse_argv = 0;
    config.pathconfig_warnings = 0;
    config.site_import = 0;
    config.write_bytecode = 0;
    require(PyConfig_SetBytesString(&config, &config.executable, exe));
    require(PyConfig_SetBytesString(&config, &config.program_name, argc ? argv[0] : ""));
    require(PyConfig_SetString(&config, &config.home, empty));
    require(PyConfig_SetBytesArgv(&config, argc, argv));
    require(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
}

int main(int argc, char **argv)
{
    char exe[PATH_MAX], archive[PATH_MAX + 32];
    uint64_t offset;

    open_standard_descriptors();
    offset = find_modules(exe);
    start_interpreter(argc, argv, exe);
    sprintf(archive, "%s?%llu", exe, (unsigned long long)offset);
    if (PySys_SetObject("_pyinstaller_pyz", PyUnicode_DecodeFSDefault(archive)) < 0 ||
        PySys_SetObject("_MEIPASS", PyUnicode_FromString(HOME)) < 0 || PyImport_ImportFrozenModule("entry") < 1) {
        PyErr_Print();
        return 1;
    }
    return 0; /* entry.py ends the process */
}
