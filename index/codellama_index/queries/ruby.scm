(module name: [
  (constant) @name
  (scope_resolution scope: (_)? @within name: (constant) @name)]) @definition.module
(class name: [
  (constant) @name
  (scope_resolution scope: (_)? @within name: (constant) @name)]) @definition.class
(method name: [(identifier) (constant) (operator)] @name) @definition.function
(method name: (setter) @name) @definition.function
(singleton_method name: [(identifier) (constant) (operator) (setter)] @name) @definition.method
(alias name: [(identifier) (operator) (setter)] @name) @definition.method
(assignment left: (constant) @name) @definition.constant
(assignment left: (scope_resolution name: (constant) @name)) @definition.constant
(assignment left: (left_assignment_list (constant) @name)) @definition.constant
(operator_assignment left: (constant) @name) @definition.constant
(assignment left: (constant) @name right: (call receiver: (constant) @_struct method: (identifier) @_new)
  (#any-of? @_struct "Struct" "Class" "Data") (#any-of? @_new "new" "define")) @definition.class
(call method: (identifier) @_macro arguments: (argument_list (simple_symbol) @name)
  (#any-of? @_macro "attr_reader" "attr_writer" "attr_accessor" "attr")) @definition.field
(call method: (identifier) @_macro arguments: (argument_list . (simple_symbol) @name)
  (#any-of? @_macro "define_method" "alias_method" "scope" "define_singleton_method")) @definition.method
(assignment left: (global_variable) @name) @definition.variable

; Uses
(comment) @comment

(call method: (identifier) @_require arguments: (argument_list (string (string_content) @import))
  (#any-of? @_require "require" "require_relative" "load" "autoload"))
(call method: (identifier) @_include arguments: (argument_list [(constant) (scope_resolution)] @import)
  (#any-of? @_include "include" "extend" "prepend"))

(identifier) @reference
(hash_key_symbol) @reference
(constant) @reference
(instance_variable) @reference
(class_variable) @reference
(global_variable) @reference
