(let_binding pattern: (value_name) @name) @definition.variable
(let_binding pattern: (value_name) @name (parameter)) @definition.function
(let_binding pattern: (value_name) @name body: [(fun_expression) (function_expression)]) @definition.function
(let_binding pattern: (tuple_pattern (value_name) @name)) @definition.variable
(let_binding pattern: (parenthesized_operator (_) @name) (parameter)) @definition.function
(method_definition (method_name) @name) @definition.method
(instance_variable_definition (instance_variable_name) @name) @definition.field

; Uses
(let_expression) @local
(fun_expression) @local
(value_definition) @outer

(open_module module: (module_path) @import)
(instance_variable_name) @reference
