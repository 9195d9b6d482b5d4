/* A library that is no plug-in. */
int ousac_test_no_plugin(void);

__attribute__((visibility("default"))) int ousac_test_no_plugin(void) {
    return 0;
}
